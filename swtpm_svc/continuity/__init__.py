"""What outlives the process: the parked memory and what an orderly stop leaves in it (decisions/0016).

The rule: it keeps records as bytes and knows no front end; the process that reads them is not the one that wrote them,
so everything is checked.
"""
