"""What outlives the process: the parked memory and what an orderly stop leaves in it (decisions/0016).

The rule: it keeps records as bytes and knows no front end; who reads them was not there when they were written, so all
is checked.
"""
