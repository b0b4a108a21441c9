"""Probing what is handed out: which address may be probed, how, how long it may take, when."""
