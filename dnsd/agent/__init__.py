"""The agent: round trips of the connections that end on a machine, for a dnsd."""
