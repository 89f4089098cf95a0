"""A sweep's answer: the runs below a folder as one table and one page. Run as `python -m lookright.report FOLDER`."""
