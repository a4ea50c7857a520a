"""The counts of a plan as plain values, for programs. Knows no price."""

from typing import Any

from sfr_batch.planning.plan import EmbedPlan


def plan_as_json(plan: EmbedPlan) -> dict[str, Any]:
    """What `EmbedPlan.describe` says, by keys; `rows_to_embed` and `text_bytes` are estimates unless
    `rows_are_exact`."""
    changes = plan.difference.changes if plan.difference else None
    return {
        "table": plan.store.root,
        "snapshot": plan.base.number if plan.base else None,
        "shards": len(plan.carried) + len(plan.changed),
        "unchanged_shards": len(plan.carried),
        "vanished_shards": len(plan.vanished),
        "splits": len(plan.splits),
        "splits_to_embed": len(plan.todo_splits),
        "rows_to_embed": plan.rows,
        "rows_are_exact": plan.rows_are_exact,
        "text_bytes": plan.text_bytes,
        "vectors_to_copy": plan.vectors_to_copy,
        "changes": changes.model_dump() if changes else None,
        "fingerprint": plan.card.fingerprint,
        "up_to_date": plan.up_to_date,
        "notes": plan.notes(),
    }
