"""Every arm of docs/results.md's table of portraits, trained for equal CPU time and judged alike; see ``__main__``."""
