"""Train one strategy on one scenario: the entry point of the rehearsal half of remerge.

python run.py strategy=derpp scenario=class10 -m seed=0,1,2
python run.py --help
"""

from remerge.commands import run

if __name__ == "__main__":
    run()
