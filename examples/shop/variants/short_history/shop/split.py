"""How the shop's labels are divided in time, where they are too few to lose those of half an hour."""

from headrace import ByTime

split = ByTime(validation=0.15, test=0.15, gap="0s")
