"""HTML reports of one run or several: charts, and tables of the values that they show."""
