"""dnsd: an authoritative DNS server that answers each client with the endpoint that is best for that client."""

__version__ = "0.1.0"
