"""What a scrape shows of the workloads that run."""

from gpujob.adapters.metrics import Figures, Run, exposition
from gpujob.api.gpunode import RunStatus


def scraped(*labels: str, leads: bool = True) -> str:
    """What a replica shows while a job with some labels runs, if these are handed on."""
    status = RunStatus.model_validate({"startedAt": "2026-01-01T12:00:00Z"})
    team = {"team": 'vis"ion', "example.com/cost-centre": "42"}
    run = Run(namespace="a", job="train", labels=team, status=status)
    figures = Figures(
        leads=leads,
        not_ready={},
        leased_machines=1,
        leased_usd_per_hour=0.4,
        credit_usd=None,
        unfit_paid_seconds={},
        lanes={},
        longest_stall_seconds=0.0,
        destroy_late_seconds=0.0,
        destroy_slack_seconds=1.0,
        labels=labels,
        runs=[run],
    )
    return exposition(figures).decode()


def test_labels_that_jobs_hand_on_are_in_the_metrics() -> None:
    """One metric has them all, to be joined with others by namespace and job."""
    told = scraped("team", "example.com/cost-centre", "absent")

    assert (
        'gpujob_job_labels{job="train",label_absent="",label_example_com_cost_centre="42",'
        'label_team="vis\\"ion",namespace="a"} 1.0'
    ) in told


def test_no_label_is_shown_that_nobody_chose() -> None:
    """Each would make more series; and a replica that does not lead shows none."""
    assert "gpujob_job_labels" not in scraped()
    assert "gpujob_job_labels" not in scraped("team", leads=False)
