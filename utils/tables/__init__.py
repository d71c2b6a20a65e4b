"""Many runs: the tables of a manifest, and what carries them out."""
