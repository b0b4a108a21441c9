"""Drills: a scratch fleet over a network with distances, faults in it, and how long its users notice them."""
