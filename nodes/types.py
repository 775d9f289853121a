"""The wire types of this pack."""

from __future__ import annotations

from comfy_api.latest import io

ScheduleType = io.Custom("RLG_SCHEDULE")
BranchType = io.Custom("RLG_BRANCH")
TraceType = io.Custom("RLG_TRACE")
RewardType = io.Custom("RLG_REWARD")
