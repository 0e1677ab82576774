"""What `explain` prints, as text, JSON and HTML, for templates and live keys."""
