"""Files: atomic writes, validated reads of untrusted files, JSON and digests."""
