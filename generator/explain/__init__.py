"""Who can decrypt by a template, a policy or a live key, as text, as JSON and as a page."""
