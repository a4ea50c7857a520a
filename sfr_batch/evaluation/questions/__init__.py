"""Questions of one's own: a table is asked, its answers are scored, and laid beside those of another table."""
