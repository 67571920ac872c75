"""Tables and plots of finished runs: `python -m cl.report PATH...` (see cl/reporting/report.py)."""

from cl.reporting.report import main

if __name__ == "__main__":
    main()
