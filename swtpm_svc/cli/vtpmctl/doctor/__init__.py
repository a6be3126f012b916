"""`vtpmctl doctor`: what an experienced administrator would look at, one finding for each question. A room for each kind
of question; none changes anything, and what cannot be looked at, most often for want of root, is a warning that says
so."""
