"""`giza view`: clips and episodes beside what is known of them, on one time line."""
