"""What `explain` says, as text, as JSON and as a page; of templates and of live keys."""
