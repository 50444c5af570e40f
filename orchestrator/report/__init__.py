"""The report of a run: one HTML file that needs nothing else, made from the files of the run's folder.

`evaluation.py` measures the final model, `run_data.py` reads the folder, `figures.py` says what they mean, `charts.py`
draws, and `page.py` puts it together. `orchestrator/make_report.py` makes a report anew at any time.
"""
