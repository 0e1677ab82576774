"""Who can decrypt, told as text, JSON and a page; of templates, policies and live keys."""
