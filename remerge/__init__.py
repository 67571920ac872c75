"""remerge: rehearsal and merging, two ways to keep a network from forgetting, in one suite."""
