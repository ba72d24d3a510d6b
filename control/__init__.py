"""What happens to every session: protocol machines, configuration, the processes, the command."""
