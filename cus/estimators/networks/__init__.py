"""Networks implemented in this project, because their authors' packages cannot be installed alongside it."""
