"""Pictures, videos and the HTML report of a run. Imports third-party code and `cus.errors` only."""
