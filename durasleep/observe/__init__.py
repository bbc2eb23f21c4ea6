"""What can be seen of durasleep from outside: metrics, health, and what the system that started a process is told."""
