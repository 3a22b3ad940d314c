"""How the shop's labels are divided in time, if they are too few to lose half an hour of them to the gap."""

from headrace import ByTime

split = ByTime(validation=0.15, test=0.15, gap="0s")
