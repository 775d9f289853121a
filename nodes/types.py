"""The wire types of this pack."""

from __future__ import annotations

from comfy_api.latest import io

Schedule = io.Custom("RLG_SCHEDULE")
BranchType = io.Custom("RLG_BRANCH")
Trace = io.Custom("RLG_TRACE")
Reward = io.Custom("RLG_REWARD")
