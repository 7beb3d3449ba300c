"""One module a command: here the rooms are joined."""
