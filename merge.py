"""Fuse networks that were trained on one task each: the entry point of the merging half of remerge.

python merge.py fusion=ties
python merge.py fusion=avg,task_arithmetic -m seed=0,1,2
python merge.py study=equal_budget -m seed=0,1,2,3,4
python merge.py --help
"""

from remerge.commands import merge

if __name__ == "__main__":
    merge()
