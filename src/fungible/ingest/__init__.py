"""Facts from elsewhere, read and checked, into the spool: one file per stream and format."""
