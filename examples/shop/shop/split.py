"""How the shop's labels are divided in time."""

from headrace import ByTime

# A label is known only when its session has been silent for half an hour, so the parts have that gap.
split = ByTime(validation=0.15, test=0.15, gap="30m")
