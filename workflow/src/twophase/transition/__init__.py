"""Where the two phases meet, and how chaotic the first is: estimators with intervals, as functions of arrays alone."""
