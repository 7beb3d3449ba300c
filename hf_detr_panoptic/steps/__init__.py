"""One module a command, or a folder with its `command.py`: here the rooms are joined."""
