"""Networks as functions of their parameters, their derivatives along these, and what can't be differentiated."""
