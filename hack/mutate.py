"""Plants faults in a copy of the operator, and says which test catches each one.

A fault replaces one text by another. The original text must occur exactly once in its file;
otherwise that is an error, so that the table of faults stays up to date. Which test caught a
fault is kept in `hack/caught.txt` and tried first the next time: a search through all tests takes
hours, what is known takes seconds a fault. At the end the tests that caught something run on a
copy without a fault, where none may fail.
"""

import argparse
import contextlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CAUGHT = ROOT / "hack/caught.txt"
TEST_SECONDS_MAX = 120
WAITING = 4
"""So many contract tests run at once."""
NEEDED = ("operator", "tests", "hack", "crds", "helm", "pyproject.toml")

LIVES = "plain or last or retried or cut or long or storm or lock or stands or launch"
SIMULATION = ("tests/simulation", "--points=1", "--pairs=1", "--seeds=0..5", "-k", LIVES)
PURE = ("tests/unit/core", "tests/unit/test_log.py")
STAGES: tuple[tuple[str, ...], ...] = (PURE, SIMULATION, ("tests/contract",))
"""The fastest first."""
NEAREST = {
    "adapters/body.py": "tests/contract/test_hostile_answers.py",
    "adapters/controller.py": "tests/contract/test_netrc.py",
    "api/foreign.py": "tests/unit/test_foreign.py tests/unit/test_transport_messages.py",
    "api/gpujob.py": "tests/unit/core/test_admission.py",
    "server/http_api/open_streams.py": "tests/contract/test_open_streams.py",
    "controller/price_watch.py": "tests/simulation/test_prices.py",
    "server/admission.py": "tests/unit/test_webhook.py tests/contract/test_foreign_bytes.py",
    "server/http_api/new_jobs.py": "tests/unit/test_webhook.py",
    "server/http_api/guard.py": "tests/unit/test_http_guard.py",
    "web/rate_limit.py": "tests/unit/test_http_guard.py",
    "web/bodies.py": "tests/contract/test_bodies.py",
    "web/lingering.py": "tests/contract/test_early_answers.py",
    "web/listener.py": "tests/contract/test_newcomers.py "
    "tests/contract/test_client_certificates.py",
    "web/client_certificates.py": "tests/contract/test_client_certificates.py",
    "server/main.py": "tests/integration/test_client_certificates.py",
    "server/settings.py": "tests/unit/test_config.py",
    "adapters/pki.py": "tests/unit/test_config.py",
    "web/problems.py": "tests/contract/test_newcomers.py",
    "adapters/egress.py": "tests/contract/test_egress.py tests/contract/test_netrc.py",
    "adapters/kube.py": "tests/contract/test_kube_answers.py tests/contract/test_served.py",
    "adapters/log_store.py": "tests/contract/test_egress.py tests/contract/test_log_store.py "
    "tests/contract/test_netrc.py",
    "adapters/redact.py": "tests/unit/test_log.py",
    "adapters/sink.py": "tests/unit/test_log.py",
    "adapters/ssh.py": "tests/contract/test_start_up_files.py tests/contract/test_machines.py",
    "adapters/vast.py": "tests/contract/test_vast_client.py tests/contract/test_hostile_answers.py "
    "tests/contract/test_log_store.py tests/contract/test_netrc.py",
    "adapters/vast_wire.py": "tests/unit/test_vast_wire.py tests/contract/test_hostile_answers.py",
    "adapters/transport.py": "tests/contract/test_transport_client.py",
    "controller/driver_tokens.py": "tests/contract/test_driver_tokens.py",
    "controller/identity.py": "tests/simulation/test_identity.py "
    "tests/integration/test_namespaced.py",
    "controller/signed_tokens.py": "tests/contract/test_signed_tokens.py",
    "controller/holds.py": "tests/contract/test_held_answers.py",
    "controller/transport.py": "tests/contract/test_driver_tokens.py "
    "tests/contract/test_held_answers.py tests/integration/test_tls.py",
    "controller/cache.py": "tests/simulation/test_closed.py tests/contract/test_driver_tokens.py "
    "tests/simulation/test_namespaces.py "
    "tests/contract/test_held_answers.py tests/simulation/test_cache.py "
    "tests/simulation/test_watch.py tests/simulation/test_echoes.py tests/simulation/test_fleet.py "
    "tests/simulation/test_marks.py",
    "controller/sweep.py": "tests/simulation/test_sweep.py tests/simulation/test_pace.py",
    "controller/destroys.py": "tests/simulation/test_pace.py",
    "controller/other_releases.py": "tests/simulation/test_lock.py",
    "controller/readings.py": "tests/simulation/test_cache.py",
    "controller/workqueue.py": "tests/unit/test_workqueue.py",
    "controller/fuse_guard.py": "tests/simulation/test_lock.py",
    "controller/lead.py": "tests/simulation/test_namespaces.py tests/simulation/test_watch.py",
    "controller/leader_lock.py": "tests/simulation/test_lock.py",
    "controller/machine_book.py": "tests/simulation/test_evidence.py "
    "tests/simulation/test_distrust.py",
    "controller/profile_book.py": "tests/simulation/test_learning.py",
    "controller/main.py": "tests/integration/test_namespaced.py",
    "controller/market_watch.py": "tests/simulation/test_keys.py tests/simulation/test_clocks.py",
    "controller/address.py": "tests/integration/test_address.py",
    "controller/pods.py": "tests/unit/test_pods.py",
    "controller/provider.py": "tests/contract/test_egress.py",
    "web/token_reviews.py": "tests/unit/test_token_reviews.py tests/contract/test_driver_tokens.py",
    "controller/settings.py": "tests/unit/test_config.py tests/contract/test_listening.py",
    "controller/reconcile.py": "tests/simulation/test_writes.py tests/simulation/test_budgets.py "
    "tests/simulation/test_logins.py tests/simulation/test_cache.py "
    "tests/simulation/test_watch.py tests/simulation/test_caps.py tests/simulation/test_echoes.py "
    "tests/simulation/test_waits.py tests/simulation/test_due.py",
    "server/http_api/yaml_bodies.py": "tests/unit/test_yaml_bodies.py",
    "core/budget/cover.py": "tests/unit/core/test_budget_cover.py "
    "tests/unit/core/test_budget_passes.py",
    "controller/budget_book.py": "tests/simulation/test_budgets.py",
    "core/job/reserving.py": "tests/unit/core/test_budget_passes.py",
    "core/budget/ending.py": "tests/unit/core/test_budget_ledger.py",
    "core/budget/ledger.py": "tests/unit/core/test_budget_ledger.py",
    "core/budget/outlook.py": "tests/unit/core/test_budget_ledger.py",
    "core/budget/period.py": "tests/unit/core/test_budget_period.py",
    "core/cost/bid.py": "tests/unit/core/test_bid.py",
    "core/cost/choice.py": "tests/unit/core/test_choice.py tests/unit/core/test_gate.py "
    "tests/unit/core/test_bid.py tests/unit/core/test_hosts.py",
    "core/cost/gate.py": "tests/unit/core/test_choice.py tests/unit/core/test_gate.py",
    "core/market/offers.py": "tests/unit/core/test_choice.py tests/unit/core/test_offers.py",
    "core/cost/estimate.py": "tests/unit/core/test_choice.py tests/unit/core/test_gate.py",
    "core/mark_keys.py": "tests/unit/core/test_mark_keys.py",
    "core/market/outbids.py": "tests/unit/core/test_bid.py",
    "core/leader_lock.py": "tests/simulation/test_lock.py",
    "core/identity.py": "tests/unit/core/test_identity.py",
    "core/cost/error_budget.py": "tests/unit/core/test_experience.py",
    "core/cost/experience.py": "tests/unit/core/test_experience.py",
    "core/cost/profile.py": "tests/unit/core/test_learning.py tests/simulation/test_learning.py",
    "core/cost/run_bound.py": "tests/unit/core/test_gate.py",
    "core/cost/template.py": "tests/unit/core/test_experience.py",
    "core/cost/window.py": "tests/unit/core/test_window.py tests/unit/core/test_experience.py",
    "core/job/end.py": "tests/simulation/test_echoes.py",
    "core/job/pending.py": "tests/unit/core/test_pending.py",
    "core/node/driver.py": "tests/unit/core/test_waits.py",
    "core/observation.py": "tests/unit/core/test_waits.py tests/unit/core/test_fitting.py",
    "core/queue.py": "tests/unit/core/test_queue.py",
    "core/refusals.py": "tests/unit/core/test_waits.py",
    "core/rest.py": "tests/unit/core/test_rest.py",
    "core/settling.py": "tests/unit/core/test_settling.py tests/unit/core/test_rest.py",
    "core/conditions.py": "tests/unit/core/test_settling.py tests/unit/core/test_conditions.py",
    "core/cost/leased.py": "tests/unit/core/test_leased.py tests/simulation/test_fleet.py "
    "tests/simulation/test_caps.py",
    "core/machine/start_script.py": "tests/unit/test_watchdog.py tests/contract/test_machines.py",
    "core/machine/assignment.py": "tests/unit/core/test_assignment.py "
    "tests/unit/core/test_extension.py",
    "core/job/strays.py": "tests/unit/core/test_job_plan.py tests/simulation/test_marks.py",
    "core/node/deadlines.py": "tests/unit/core/test_extension.py tests/unit/core/test_node.py "
    "tests/unit/core/test_pending.py",
    "core/node/extension.py": "tests/unit/core/test_extension.py",
    "core/node/facts.py": "tests/unit/core/test_extension.py tests/unit/core",
    "core/market/clocks.py": "tests/unit/core/test_clocks.py",
    "core/market/absence.py": "tests/unit/core/test_market.py tests/unit/core/test_history.py",
    "core/market/gpu_models.py": "tests/unit/core/test_gpu_models.py",
    "core/market/history.py": "tests/unit/core/test_history.py",
    "core/market/hosts.py": "tests/unit/core/test_hosts.py tests/simulation/test_distrust.py",
    "core/market/images.py": "tests/unit/core/test_images.py",
    "api/driver_pod.py": "tests/unit/core/test_fitting.py",
    "core/machine/driver_defaults.py": "tests/unit/core/test_fitting.py",
    "core/machine/driver_pod.py": "tests/unit/core/test_fitting.py "
    "tests/unit/core/test_driver_pod.py",
    "core/spec_faults.py": "tests/unit/core/test_fitting.py tests/unit/core/test_admission.py",
    "core/node/blame.py": "tests/unit/core/test_blame.py",
    "core/node/contact.py": "tests/unit/core/test_contact.py",
    "core/node/learning.py": "tests/unit/core/test_learning.py",
    "core/node/news.py": "tests/unit/core/test_news.py",
    "core/node/plan.py": "tests/unit/core/test_queue.py tests/unit/core",
    "core/node/punctuality.py": "tests/unit/core/test_punctuality.py",
    "core/node/release.py": "tests/simulation/test_clocks.py tests/simulation/test_distrust.py "
    "tests/unit/core",
    "driver/checkpoint.py": "tests/contract/test_checkpoint.py",
    "driver/files.py": "tests/contract/test_files.py",
    "driver/listing.py": "tests/contract/test_files.py tests/contract/test_images.py",
    "driver/main.py": "tests/contract/test_driver.py",
    "driver/output.py": "tests/contract/test_data.py tests/contract/test_driver.py",
    "driver/ports.py": "tests/contract/test_ports.py",
    "driver/pulling.py": "tests/contract/test_files.py",
    "driver/registry.py": "tests/unit/test_registry.py",
    "driver/reporting.py": "tests/contract/test_driver.py",
    "driver/supervisor.py": "tests/unit/test_workload.py tests/unit/test_supervisor.py",
    "driver/ways.py": "tests/contract/test_ways.py",
    "driver/work.py": "tests/contract/test_driver.py tests/contract/test_ways.py",
}
"""The tests that most probably catch a fault in a file: they are run first."""


class NotPlantable(ValueError):
    """The text to replace does not occur exactly once in its file."""


@dataclass(frozen=True)
class Fault:
    """A fault, as a change of the code."""

    name: str
    file: str
    """Path relative to `operator/gpujob`."""
    find: str
    put: str

    def planted(self, source: str) -> str:
        """Returns the source with the fault in it; raises NotPlantable."""
        if source.count(self.find) != 1:
            raise NotPlantable(f"{self.name}: {self.file} has it {source.count(self.find)} times")
        return source.replace(self.find, self.put)


FAULTS = (
    # --- Renting ------------------------------------------------------------------------------
    Fault(
        "the marker is skipped",
        "controller/reconcile.py",
        """            await self._store(key, seen.stored, after)
            self._tell_of_node(seen)""",
        """            self._tell_of_node(seen)""",
    ),
    Fault(
        "a marked attempt may rent again",
        "core/node/rent.py",
        """    if seen.stage is not Stage.READY_TO_RENT:
        return None""",
        """    if status.run is not None:
        return None""",
    ),
    Fault(
        "an answer that did not come is a no",
        "controller/reconcile.py",
        "return RentUnanswered(str(error))",
        "return RentRefused(error.reason, str(error))",
    ),
    Fault(
        "an unclear status is a no",
        "adapters/vast.py",
        "if status in (408, 409, 425, 429) or not 400 <= status < 500:",
        "if not 400 <= status < 500:",
    ),
    Fault(
        "a number in an error is no machine",
        "adapters/vast.py",
        'if answer.get("new_contract") is not None:',
        'if 200 <= status < 300 and answer.get("new_contract") is not None:',
    ),
    Fault(
        "an odd number in an error is no machine",
        "adapters/vast.py",
        'raise RentUnclear(f"the answer with status {status}: {error}") from None',
        "del error",
    ),
    Fault(
        "a machine may have a number that nobody can store",
        "adapters/vast_wire.py",
        "not isinstance(value, int) or not least <= value <= COUNT_MAX:",
        "not isinstance(value, int) or not least <= value:",
    ),
    Fault(
        "an odd answer ends who asked",
        "adapters/vast.py",
        "except Exception as error:  # noqa: BLE001 - whatever it is",
        "except KeyError as error:  # whatever it is",
    ),
    Fault(
        "a clock of another age is believed",
        "adapters/vast.py",
        "return found if found.year in YEARS else None",
        "return found",
    ),
    Fault(
        "a key that was not seen to be replaced is never read again",
        "controller/market_watch.py",
        """        if await self._key_is_replaced():
            return True
""",
        """        if (replaced := await self._key_is_replaced()) is not None:
            return replaced
""",
    ),
    Fault(
        "a listing of another time is evidence",
        "controller/market_watch.py",
        "if not self._time.is_evidence:",
        "if not self._time.is_agreed:",
    ),
    Fault(
        "a wrong clock may rent",
        "controller/market_watch.py",
        "say(Reason.CLOCK_SKEW, self._time.problem or None)",
        "say(Reason.CLOCK_SKEW, None)",
    ),
    Fault(
        "our own clock is believed alone",
        "core/market/clocks.py",
        "if ours_fits:",
        "if True:",
    ),
    Fault(
        "the provider's clock moves time step by step",
        "core/market/clocks.py",
        "max(sure, min(wall, theirs)) if ours_fits else sure",
        "max(sure, theirs)",
    ),
    Fault(
        "a new process takes the later clock",
        "core/market/clocks.py",
        "else min(wall, theirs)",
        "else max(wall, theirs)",
    ),
    Fault(
        "a new process is a witness for itself",
        "core/market/clocks.py",
        "            is_agreed=False,",
        "            is_agreed=True,",
    ),
    Fault(
        "a destroy that was lost waits for evidence",
        "core/node/release.py",
        "if last is None or (unseen and world.monotonic - last >= patience):",
        "if last is None:",
    ),
    Fault(
        "a log may lie in our own network",
        "adapters/log_store.py",
        "if not may_be_near and not is_far(str(host)):",
        "if not may_be_near and host == '127.0.0.1':",
    ),
    Fault(
        "a log may come over a line that anybody reads",
        "adapters/log_store.py",
        'schemes = ("https",) if self._provider.scheme == "https" else ("http", "https")',
        'schemes = ("http", "https")',
    ),
    Fault(
        "a log that is late is requested anew",
        "adapters/vast.py",
        "if self._clock.monotonic() - asked.at < LOG_PATIENCE_SECONDS:",
        "if self._clock.monotonic() - asked.at < 5:",
    ),
    Fault(
        "the host key is printed once",
        "core/machine/start_script.py",
        "[ $n -ge 120 ]",
        "[ $n -ge 0 ]",
    ),
    Fault(
        "a listing may go round in a circle",
        "adapters/vast.py",
        "if again := rows.keys() & found.keys():",
        "if again := rows.keys() - rows.keys():",
    ),
    Fault(
        "a listing has no end",
        "adapters/vast.py",
        "if not page.rows or len(rows) >= max(totals):",
        "if not page.rows:",
    ),
    Fault(
        "a number of many digits hides all others",
        "adapters/body.py",
        "return json.loads(text, parse_int=_integer)",
        "raise",
    ),
    Fault(
        "an exponent may be of any length",
        "core/money.py",
        "if abs(exponent) > DIGITS_MAX or (",
        "if (",
    ),
    Fault(
        "a machine of unknown price costs nothing",
        "core/cost/gate.py",
        "if leased.unpriced:",
        "if leased.unpriced == 0:",
    ),
    Fault(
        "the cap by the hour is for the machines before this one",
        "core/cost/choice.py",
        "            if self.reckoning.costs_more(offer, self._left):",
        "            if not self._left:",
    ),
    Fault(
        "a job waits for the best offer though another fits in the cap by the hour",
        "core/cost/choice.py",
        """min(lowest, rate)
                self.refused[OVER_CAP] += 1
                continue""",
        """min(lowest, rate)
                break""",
    ),
    Fault(
        "a machine that was just asked for does not count yet",
        "controller/cache.py",
        "if what_counts(self.nodes.get(uid) or self.jobs.get(uid)) != before:",
        "if before is None:",
    ),
    Fault(
        "a price that rose does not count",
        "core/cost/leased.py",
        "return status.may_cost, status.rent, status.lease, status.extension",
        "return status.may_cost, status.rent, status.extension",
    ),
    Fault(
        "what is asked for counts only once it is listed",
        "core/cost/leased.py",
        "if uid not in shown and numbers.get(uid) not in listed and held.rent is not None:",
        "if held.lease and uid not in shown and numbers[uid] not in listed and held.rent:",
    ),
    Fault(
        "the caps count everybody's machines",
        "core/cost/leased.py",
        "return mark.cluster_id == cluster_id",
        "return True",
    ),
    Fault(
        "a new leader counts only what it has been told of",
        "controller/reconcile.py",
        "        if self._has_seen_all:\n            return",
        "        return",
    ),
    Fault(
        "traffic that cannot be read costs nothing",
        "core/node/charge.py",
        "return accrued_microusd(seen, unpaid_seconds=unpaid) + unseen",
        "return accrued_microusd(seen, unpaid_seconds=unpaid)",
    ),
    Fault(
        "what a machine has moved is forgotten with its leader",
        "core/node/traffic.py",
        'return status.model_copy(update={"traffic": shown})',
        "return status",
    ),
    Fault("the request is repeated", "adapters/vast.py", "data=once(),", "data=payload,"),
    Fault("a late request is sent", "adapters/vast.py", "if left <= 0:", "if left <= -3600:"),
    Fault(
        "an unrecorded node may rent",
        "core/node/rent.py",
        "if job.status.node_uid != seen.node.metadata.uid:\n        return wait",
        "if job.status.node_uid is None:\n        return wait",
    ),
    Fault(
        "a wrong account is accepted",
        "controller/reconcile.py",
        "if after.rent is None or line.account_id != after.rent.account_id:",
        "if after.rent is None:",
    ),
    Fault(
        "the lock is not asked before a rent",
        "controller/reconcile.py",
        """rent_not_after_seconds):
            raise""",
        """rent_not_after_seconds) and not self._lock:
            raise""",
    ),
    Fault(
        "an attempt's name is used again",
        "core/job/plan.py",
        "attempt = job.status.attempt + 1",
        "attempt = max(job.status.attempt, 1)",
    ),
    Fault(
        "a node is born without its finalizer",
        "core/job/plan.py",
        '"finalizers": [FINALIZER],',
        '"finalizers": [],',
    ),
    Fault(
        "a job needs no finalizer",
        "core/job/plan.py",
        "if job.metadata.holds_finalizer\n        else",
        "if job.metadata.name\n        else",
    ),
    Fault(
        "a job is let go while a machine may be leased for it",
        "core/job/plan.py",
        "if _has_node(seen) or owed_for(seen.job.status) or not seen.world.listings:",
        "if not seen.world.listings:",
    ),
    Fault(
        "a release that serves all does not mind one that serves some",
        "core/leader_lock.py",
        'return ("", *theirs)',
        'return ("",)',
    ),
    Fault(
        "a release believes what another one says that it serves",
        "core/leader_lock.py",
        "    if ours:\n        return tuple(ours)",
        "    if ours:\n        return tuple(one for one in ours if one in theirs)",
    ),
    Fault(
        "two releases of one identity sweep each other's machines",
        "core/leader_lock.py",
        "    if other.installation != installation:\n        return shared\n"
        "    return tuple(dict.fromkeys((*shared, *other.served)))",
        "    return shared",
    ),
    Fault(
        "a release does not say which identity it has",
        "controller/leader_lock.py",
        "            ANNOTATION_IDENTITY: settings.identity,\n",
        "",
    ),
    Fault(
        "a leader does not know the identity that it has found",
        "controller/main.py",
        "    settings = replace(settings, identity=cluster_id)\n",
        "",
    ),
    Fault(
        "only the first namespace is listed",
        "adapters/kube.py",
        "if not token and number + 1 < len(self._namespaces):",
        "if not token and number + 1 < 1:",
    ),
    Fault(
        "all installations have one identity",
        "controller/identity.py",
        "return str(uuid.uuid4())",
        'return "the-same"',
    ),
    Fault(
        "a lost identity is replaced while machines run",
        "core/identity.py",
        'return not any("rent" in status and',
        'return not any("lent" in status and',
    ),
    Fault(
        "an identity is restored into another cluster",
        "core/identity.py",
        "kept is not None and kept.place == place and",
        "kept is not None and",
    ),
    Fault(
        "machines of a version that served all become strangers",
        "core/identity.py",
        'return annotation not in (lease["metadata"]',
        'return annotation == (lease["metadata"]',
    ),
    Fault(
        "an identity is changed while machines run",
        "core/identity.py",
        'given not in ("", kept.identity)',
        'given in ("", kept.identity)',
    ),
    Fault(
        "an identity is changed whatever runs",
        "controller/identity.py",
        "if changed and not may_begin",
        "if False and not may_begin",
    ),
    Fault(
        "machines in a namespace that is left out are swept",
        "core/identity.py",
        "tuple(one for one in kept.served if one not in served)",
        "tuple(one for one in served if one not in kept.served)",
    ),
    Fault(
        "all machines but those of one namespace are swept",
        "core/identity.py",
        '    if not kept.served:\n        return ("",)\n',
        "",
    ),
    Fault(
        "what was served is not kept",
        "controller/identity.py",
        ", KEY_SERVED: settings.job_namespaces}",
        "}",
    ),
    Fault(
        "the version that led before is not looked at",
        "controller/identity.py",
        "if settings.served and before is None:",
        "if False:",
    ),
    Fault(
        "a token is believed whoever has signed it",
        "controller/signed_tokens.py",
        "if key is None or not _is_signed(header.alg, key, signed.encode(), raw):",
        "if key is None:",
    ),
    Fault(
        "a token for another audience is believed",
        "controller/signed_tokens.py",
        "is_ours = claims.iss == self._issuer and self._audience in claims.aud",
        "is_ours = claims.iss == self._issuer",
    ),
    Fault(
        "the token of a pod that is gone is believed",
        "controller/signed_tokens.py",
        'if found is None or found["metadata"]["uid"] != pod.uid:',
        "if found is None:",
    ),
    Fault(
        "an expired token is believed",
        "controller/signed_tokens.py",
        "<= now <= claims.exp + LEEWAY_SECONDS",
        "<= now",
    ),
    Fault(
        "what was over before a restore runs again",
        "core/job/plan.py",
        "if not seen.job.metadata.is_copy_of_finished:",
        "if seen.job.metadata.name:",
    ),
    Fault(
        "a node that came late is not held",
        "core/job/plan.py",
        "if seen.job.metadata.holds_finalizer or not is_owed:",
        "if seen.job.metadata.name or not is_owed:",
    ),
    Fault(
        "a driver that its machine does not heed is kept",
        "core/node/driver.py",
        "if seen.report.is_replaced and not pod.is_being_deleted:",
        "if seen.report.is_replaced and pod.is_being_deleted:",
    ),
    Fault(
        "a driver does not say that its machine heeds it no more",
        "driver/work.py",
        "                self.findings.is_replaced = True\n",
        "",
    ),
    Fault(
        "a job that waited without a finalizer is restored as a new one",
        "core/job/plan.py",
        "is_free = is_noted and not meta.holds_finalizer",
        "is_free = not meta.holds_finalizer",
    ),
    Fault(
        "that a job is over is noted in each pass",
        "core/job/plan.py",
        "is_free = is_noted and not meta.holds_finalizer",
        "is_free = not is_noted and not meta.name",
    ),
    Fault(
        "a job that owes for a stray is not held",
        "core/job/plan.py",
        "is_owed = _has_node(seen) or owed_for(seen.job.status)",
        "is_owed = _has_node(seen)",
    ),
    Fault(
        "the node of a job that is over stays",
        "core/node/ends.py",
        "if is_finished(job.status) and job.status.node_uid != node.metadata.uid:",
        "if is_finished(job.status) and job.status.node_uid == node.metadata.name:",
    ),
    Fault(
        "the recorded node of a job that is over is ended",
        "core/node/ends.py",
        "if is_finished(job.status) and job.status.node_uid != node.metadata.uid:",
        "if is_finished(job.status):",
    ),
    # --- What was rented ----------------------------------------------------------------------
    Fault(
        "a machine that is born late is kept",
        "core/node/ends.py",
        "if late > BIRTH_GRACE:",
        "if late > BIRTH_GRACE * 1000:",
    ),
    Fault(
        "a second machine under one mark is kept",
        "core/node/plan.py",
        "return replace(plan, effects=(*plan.effects, effects.Destroy(extra)))",
        "return plan",
    ),
    Fault(
        "not seen at once is not rented",
        "core/limits.py",
        "return self.rent_not_after_seconds + self.rent_timeout_seconds + self.list_lag_seconds",
        "return self.rent_not_after_seconds + self.rent_timeout_seconds",
    ),
    Fault(
        "a host key needs no nonce",
        "core/machine/start_script.py",
        'rf"^{_MARKER} {nonce} (ssh-ed25519 [A-Za-z0-9+/=]{{20,200}}) {nonce}\\s*$"',
        'rf"^{_MARKER} [0-9a-f]+ (ssh-ed25519 [A-Za-z0-9+/=]{{20,200}}) [0-9a-f]+\\s*$"',
    ),
    Fault(
        "the host key is not compared",
        "adapters/ssh.py",
        "known_hosts=trusted,",
        "known_hosts=None,",
    ),
    # --- Listings -----------------------------------------------------------------------------
    Fault(
        "one listing proves absence",
        "core/market/absence.py",
        "second = bisect_left(moments, poll_seconds, lo=first, key=apart)",
        "second = first",
    ),
    Fault(
        "a machine that was seen again is gone",
        "core/market/absence.py",
        "begun = bisect_right(moments, max(voids), key=_requested)",
        "begun = 0",
    ),
    Fault(
        "a machine that has lost its mark is gone",
        "core/market/absence.py",
        "voids += [run.last for run in listings.sightings_of(instance_id, mark)]",
        "voids += []",
    ),
    Fault(
        "a machine that flickers has been paused all the time",
        "core/market/history.py",
        "runs[-1].last == before and runs[-1][:3] == state",
        "runs[-1][:3] == state",
    ),
    Fault(
        "the last count of a machine's traffic is the highest",
        "core/market/history.py",
        "max(down, row.download_gb)",
        "row.download_gb",
    ),
    Fault(
        "the first listing without a machine ends its charge",
        "core/node/charge.py",
        "gone = gone_at(seen, after=sent) if was_listed and sent is not None else None",
        "gone = sent if was_listed else None",
    ),
    Fault(
        "a machine without a mark is nobody's",
        "core/market/absence.py",
        "voids.append(listings.unattributable_at)",
        "pass",
    ),
    Fault(
        "a number is enough to destroy a machine",
        "core/node/release.py",
        "return bool(seen.world.listings) and not is_anothers_number(seen)",
        "return True",
    ),
    Fault(
        "a machine that a restore has forgotten is rented again",
        "core/node/restored.py",
        "    if not found:\n        return None",
        "    if True:\n        return None",
    ),
    Fault(
        "a job that cannot be read has no fuse",
        "core/node/deadlines.py",
        "if rent is None or status.not_rented is not None:",
        "if rent is None or seen.job is None or status.not_rented is not None:",
    ),
    Fault(
        "one listing is a pause",
        "core/node/pauses.py",
        "elif told.listed >= SEEN_TWICE:",
        "elif told.listed >= 1:",
    ),
    Fault(
        "a machine that nobody remembers costs its job nothing",
        "core/job/strays.py",
        "        grown += owed - charged\n",
        "",
    ),
    Fault(
        "a job that is over is charged nothing more",
        "core/job/strays.py",
        "    if not seen.world.listings:\n        return seen",
        "    if job.status.end or not seen.world.listings:\n        return seen",
    ),
    Fault(
        "a stray that the sweep was quick to destroy is charged to nobody",
        "core/job/strays.py",
        "gone = {row.instance_id: row for row in _gone_for(seen) if row.instance_id not in told}",
        "gone: dict[int, Lease] = {}",
    ),
    Fault(
        "what is gone before its job has a pass has moved nothing since",
        "core/job/strays.py",
        "last = world.listings.sightings[row.instance_id][-1].last",
        "last = world.listings[-1].requested_at",
    ),
    Fault(
        "what is closed cannot be deleted",
        "core/rest.py",
        "if meta.is_being_deleted or meta.holds_finalizer or (since",
        "if meta.is_being_deleted or (since",
    ),
    Fault(
        "a job is closed though its stray is not gone",
        "core/rest.py",
        "if status.end is None or has_node or owed_for(status):",
        "if status.end is None or has_node:",
    ),
    Fault(
        "a job is closed before it has charged its node",
        "core/rest.py",
        "if status.end is None or has_node or owed_for(status):",
        "if status.end is None or owed_for(status):",
    ),
    Fault(
        "a node is closed whose machine is not proved gone",
        "core/rest.py",
        "return status.released_at if status.end is not None else None",
        "return status.end.at if status.end is not None else None",
    ),
    Fault(
        "what was closed by mistake never comes back",
        "core/settling.py",
        'update={"closed": True if closes else None}',
        'update={"closed": True if closes or planned.status.closed else None}',
    ),
    Fault(
        "what an older release has stored is not watched",
        "controller/cache.py",
        'OPEN = "status.closed!=true"',
        'OPEN = "status.closed=false"',
    ),
    Fault(
        "what is closed gets no pass, whatever its user does",
        "controller/cache.py",
        "if (seconds := self._rest(kind, body) or 0.0) < within:",
        "if 0 < (seconds := self._rest(kind, body) or 0.0) < within:",
    ),
    Fault(
        "the stray of a closed job is charged to nobody",
        "controller/cache.py",
        "if not (left := set(self._to_seek)):",
        "if (left := set(self._to_seek)) or not left:",
    ),
    Fault(
        "a search for a stray's closed job that failed is not repeated",
        "controller/cache.py",
        "if not (left := set(self._to_seek)):\n            return\n",
        "if not (left := set(self._to_seek)):\n            return\n        self._to_seek.clear()\n",
    ),
    Fault(
        "a finished pod has its closed node looked at for ever",
        "controller/cache.py",
        "if gone or not is_over or key in self._bodies:",
        "if True:",
    ),
    Fault(
        "figures have no turn",
        "controller/reconcile.py",
        "if key not in self._figures_at:",
        "if True:",
    ),
    Fault(
        "what speaks against a machine is news but once",
        "core/node/news.py",
        'if row.intended_status == "stopped" or row.status in DENYING_STATUSES:',
        "if row is None:",
    ),
    Fault(
        "an API server that does not select is asked to",
        "controller/cache.py",
        "            self.fields = {}\n",
        "            pass\n",
    ),
    Fault(
        "a list that leaves nodes out proves that a machine has no owner",
        "controller/sweep.py",
        "if found.to_destroy and self.fields:",
        "if found.to_destroy and not self.fields:",
    ),
    Fault(
        "a job that is over gets no pass for its stray",
        "controller/cache.py",
        'if key.kind == "GpuJob" and body["metadata"]["uid"] in found\n',
        'if key.kind == "GpuJob" and key not in self._over and body["metadata"]["uid"] in found\n',
    ),
    Fault(
        "a job that is over rests though its stray is not gone",
        "core/rest.py",
        """if any("goneAt" not in one for one in status.get("strays") or ()):""",
        """if any("instanceID" not in one for one in status.get("strays") or ()):""",
    ),
    Fault(
        "what a stray moved unseen costs nothing",
        "core/job/strays.py",
        "moved += min(over_time(parse_usd(one.line_usd_per_hour), unseen), left)",
        "moved += min(0, left)",
    ),
    Fault(
        "a machine that came and went unseen costs nothing",
        "core/node/release.py",
        "if rent is None or not may_have_ended(seen):",
        "if rent is None or may_have_ended(seen):",
    ),
    Fault(
        "a machine that nobody sees late was never rented",
        "core/node/rent.py",
        "        if may_have_ended(seen):\n",
        "        if not may_have_ended:\n",
    ),
    Fault(
        "a second machine costs nothing",
        "core/node/charge.py",
        "_duplicate_microusd(seen, status.rent, other) for other in duplicates_shown(seen)",
        "0 for other in duplicates_shown(seen)",
    ),
    Fault(
        "any account's listing proves absence",
        "core/market/absence.py",
        "if not listings or listings[-1].account_id != account_id:",
        "if not listings:",
    ),
    Fault(
        "a proof goes on over another account's listings",
        "core/market/history.py",
        "other_account_at=before if changed else self.other_account_at,",
        "other_account_at=self.other_account_at,",
    ),
    Fault(
        "an incomplete listing is complete",
        "adapters/vast.py",
        "if not min(totals) <= len(rows) <= max(totals):",
        "if len(rows) > max(totals):",
    ),
    Fault(
        "a wrong key reads as not found",
        "adapters/vast.py",
        'if status in (401, 403) or body.get("error") == "auth_error":',
        "if status in (401, 403):",
    ),
    # --- Giving back --------------------------------------------------------------------------
    Fault(
        "an answered destroy is gone",
        "core/node/release.py",
        "if waits_from is not None and gone_at(seen, after=waits_from) is not None:",
        "if waits_from is not None:",
    ),
    Fault(
        "released before the list lag",
        "core/node/rent.py",
        "return None if sent is None else sent + limits.list_lag_seconds",
        "return sent",
    ),
    Fault(
        "one destroy is enough",
        "core/node/release.py",
        "return shown | ({own.instance_id} if own else set())",
        "return shown - ({own.instance_id} if own else set())",
    ),
    Fault(
        "a released node goes uncharged",
        "core/node/release.py",
        "return seen.job.status.node_uid != seen.node.metadata.uid",
        "return seen.node.status.released_at is not None",
    ),
    Fault(
        "a vanished node left nothing",
        "core/job/after_attempt.py",
        "    if not gone:\n        name =",
        "    if missed is None:\n        name =",
    ),
    Fault(
        "a vanished node has cost nothing",
        "core/job/after_attempt.py",
        "cost_usd=status.node_reserved_usd or format_usd(0),",
        "cost_usd=format_usd(0),",
    ),
    Fault(
        "a deleted job waits for nothing",
        "core/job/plan.py",
        "if _is_own(seen, node) and node is not None and node.status.released_at is None:",
        "if _is_own(seen, node) and node is not None and node.status.rent is None:",
    ),
    # --- Money --------------------------------------------------------------------------------
    Fault(
        "the fuse is ignored",
        "core/node/deadlines.py",
        "if left <= 0:",
        "if left <= -(10**6):",
    ),
    Fault(
        "a raised ceiling is spent before the job has recorded it",
        "core/node/rent.py",
        "    if recorded < held:",
        "    if not job.status.node_reserved_usd:",
    ),
    Fault(
        "the fuse is raised before the watchdog has acknowledged",
        "core/node/extension.py",
        "if told is None or report.money_deadline_seconds != told:",
        "if told is None:",
    ),
    Fault(
        "the watchdog is told before the job has recorded the reservation",
        "core/machine/assignment.py",
        "is_recorded = parse_usd(recorded) >= parse_usd(asked.fuse_usd)",
        "is_recorded = parse_usd(recorded) > 0",
    ),
    Fault(
        "a raised ceiling outlasts the host's contract",
        "core/node/extension.py",
        "deadline = min(by_money, 0 if contract is None else int(contract - lag))",
        "deadline = by_money",
    ),
    Fault(
        "nobody is told that the contract limits a raised ceiling",
        "core/node/extension.py",
        "if deadline < by_money:",
        "if deadline > by_money:",
    ),
    Fault(
        "that the contract limits a raised ceiling is told without end",
        "core/node/extension.py",
        "if status.contract_limit is None or status.contract_limit.ceiling != limit.ceiling:",
        "if limit.ceiling:",
    ),
    Fault(
        "a pause moves the fuse's deadline and not the watchdog's",
        "core/node/extension.py",
        "return _let_hold(seen) or _raise_fuse(seen) or _move_watchdog(seen)",
        "return _let_hold(seen) or _raise_fuse(seen)",
    ),
    Fault(
        "the watchdog is told a pause as if it cost nothing",
        "core/node/extension.py",
        "return min(int(deadline + spared), int(contract_seconds - lag))",
        "paused = pauses_shown(seen)\n"
        "    spared = paused.seconds if paused else 0\n"
        "    return min(int(deadline + spared), int(contract_seconds - lag))",
    ),
    Fault(
        "a pause outlasts the host's contract",
        "core/node/extension.py",
        "return min(int(deadline + spared), int(contract_seconds - lag))",
        "return int(deadline + spared)",
    ),
    Fault(
        "a watchdog that was not told of a pause ends nothing",
        "core/node/facts.py",
        "return min(fuse_seconds_left(seen), watchdog_seconds_left(seen))",
        "return fuse_seconds_left(seen)",
    ),
    Fault(
        "a machine whose watchdog was not told of a pause is the end of its job",
        "core/node/deadlines.py",
        "        reason = Reason.OUTBID",
        "        reason = Reason.BUDGET_EXHAUSTED",
    ),
    Fault(
        "the watchdog says that it holds to what it does not",
        "core/machine/start_script.py",
        "*) money=$n; echo $n >",
        "*) echo $n >",
    ),
    Fault(
        "the fuse forgets what was spent",
        "core/cost/choice.py",
        "left = floor_usd(question.spec.cost.ceiling) - question.spent_microusd",
        "left = floor_usd(question.spec.cost.ceiling)",
    ),
    Fault(
        "the fuse forgets the destroy lag",
        "core/cost/gate.py",
        "return max(int(seconds - Fraction(destroy_lag_seconds)), 0)",
        "return max(int(seconds), 0)",
    ),
    Fault(
        "a deadline reckons with one machine",
        "core/limits.py",
        "self.request_spacing * self.max_leases",
        "self.request_spacing",
    ),
    Fault(
        "a raised cap does not wait for earlier deadlines",
        "core/cost/gate.py",
        "limits.max_leases if leased.reckoned is None else min(limits.max_leases, leased.reckoned)",
        "limits.max_leases",
    ),
    Fault(
        "the deadline is ignored",
        "core/node/deadlines.py",
        "or deadline is None or ran_seconds(seen) < deadline:",
        "or deadline is None or ran_seconds(seen) >= 0:",
    ),
    Fault(
        "what an attempt cost is not added",
        "core/job/after_attempt.py",
        "spent = parse_usd(status.cost.spent_usd) + parse_usd(record.cost_usd)",
        "spent = parse_usd(record.cost_usd)",
    ),
    Fault(
        "a suspended job is promised another attempt",
        "core/job/after_attempt.py",
        "    if seen.job.spec.suspend:\n        return Reason.SUSPENDED",
        "    if False:\n        return Reason.SUSPENDED",
    ),
    Fault(
        "a job with too much traffic is told to run shorter",
        "core/cost/gate.py",
        "if bound - cheapest.traffic_microusd <= floor_usd(",
        "if bound <= floor_usd(",
    ),
    Fault(
        "a price is compared with those of other models",
        "core/cost/choice.py",
        "rates = self._plausible.get(way.shown.gpu_model)",
        "rates = max(self._plausible.values(), default=None)",
    ),
    Fault(
        "a bid is compared with prices on demand",
        "core/cost/choice.py",
        "<= way.shown.usd_per_gpu_hour <=",
        "<= way.offer.usd_per_gpu_hour <=",
    ),
    Fault(
        "a bid passes the fuse",
        "core/cost/choice.py",
        "left = fuse_microusd(question) - reckoning.traffic_microusd(offer)",
        "left = 10**12",
    ),
    Fault(
        "a bid leaves nothing for the disk",
        "core/cost/choice.py",
        "return most - offer.disk_usd_per_hour(reckoning.needs.disk_gb)",
        "return most",
    ),
    Fault(
        "a job that bids pays any price on demand",
        "core/cost/bid.py",
        "if on_demand <= most_usd_per_hour:",
        "if True:",
    ),
    Fault(
        "a bid may be anything below the price on demand",
        "core/cost/bid.py",
        "if bid <= dearest",
        "if bid <= on_demand",
    ),
    Fault(
        "a bid is rounded down",
        "core/cost/bid.py",
        "-(-usd * percent * BID_STEPS",
        "(usd * percent * BID_STEPS",
    ),
    Fault(
        "who is outbid pays for no second boot",
        "core/cost/bid.py",
        "(again + (1 + again) * piece",
        "(again + piece",
    ),
    Fault(
        "being outbid costs nothing in the choice of an offer",
        "core/cost/choice.py",
        "return likely_microusd * way.times / trust",
        "return likely_microusd / trust",
    ),
    Fault(
        "the dearest offers are looked at first",
        "core/market/offers.py",
        "return tuple(sorted(found, key=itemgetter(0)))",
        "return tuple(sorted(found, key=itemgetter(0), reverse=True))",
    ),
    Fault(
        "the least that an offer costs is its price on demand whatever is bid",
        "core/cost/choice.py",
        "iter(quotes.by_least_price if bids else quotes.by_price)",
        "iter(quotes.by_price)",
    ),
    Fault(
        "what a fast line saves is forgotten where the search for the best ends",
        "core/cost/choice.py",
        "share = float(1 - self.reckoning.boot_share_max) * (1 - ROUNDING)",
        "share = 1.0",
    ),
    Fault(
        "an offer that may cost as much as the next is looked at after it",
        "core/cost/choice.py",
        "if place < len(seen) and self._floor > seen[place][0]:",
        "if place < len(seen):",
    ),
    Fault(
        "the last of the best offers is rented",
        "core/cost/gate.py",
        "chosen = best[0]",
        "chosen = best[-1]",
    ),
    Fault(
        "what was spent is no part of what a job is expected to cost",
        "core/cost/gate.py",
        "short_usd(self.spent_microusd + ceil(one.expected))",
        "short_usd(ceil(one.expected))",
    ),
    Fault(
        "a price that is far too low is plausible",
        "core/cost/choice.py",
        "if lowest < low or high < highest:",
        "if high < highest:",
    ),
    Fault(
        "a host's contract may end before the attempt",
        "core/cost/estimate.py",
        "return seconds * 1000 >= self._lease_ms(offer) * per",
        "return seconds >= 0",
    ),
    Fault(
        "what traffic costs is rounded down",
        "core/cost/estimate.py",
        "return -(-usd * MICRO // (KILOBITS_PER_GB * per_down * per_up))",
        "return usd * MICRO // (KILOBITS_PER_GB * per_down * per_up)",
    ),
    Fault(
        "what time costs is rounded down",
        "core/cost/estimate.py",
        "return -(-rate * ms * MICRO // (per * MS_PER_HOUR))",
        "return rate * ms * MICRO // (per * MS_PER_HOUR)",
    ),
    Fault(
        "a stay that is reported twice counts twice",
        "core/market/outbids.py",
        "if old is not None and old.last_node_uid == stay.node_uid:",
        "if old is None and not stay.node_uid:",
    ),
    Fault(
        "a bid counts as a higher one",
        "core/market/outbids.py",
        "ratio * 100 + 1e-6) - 1, 0)",
        "ratio * 100 + 1e-6), 0) % len(PERCENTS)",
    ),
    Fault(
        "a restart of the container is an outbid",
        "core/node/release.py",
        "outbids = past.count - past.restarts if past else 0",
        "outbids = past.count if past else 0",
    ),
    Fault(
        "a pause is a time without an outbid",
        "core/node/release.py",
        "ours = (over.at - rent.requested_at).total_seconds() - paused",
        "ours = (over.at - rent.requested_at).total_seconds() + 0 * paused",
    ),
    Fault(
        "a host answers for itself alone",
        "core/market/hosts.py",
        "if number != machine_id",
        "if number == machine_id",
    ),
    Fault(
        "one namespace keeps all from a machine",
        "core/market/hosts.py",
        "sum(others[:-1])",
        "sum(others)",
    ),
    Fault(
        "what two namespaces say of a machine concerns no third one",
        "core/market/hosts.py",
        " + sum(others[:-1])",
        "",
    ),
    Fault(
        "of all namespaces, the one that says least is left out",
        "core/market/hosts.py",
        "sum(others[:-1])",
        "sum(others[1:])",
    ),
    Fault(
        "a namespace does not believe itself",
        "core/market/hosts.py",
        'believed = {namespace, ""}',
        'believed = {""}',
    ),
    Fault(
        "what was learnt before namespaces were kept is forgotten",
        "core/market/hosts.py",
        'believed = {namespace, ""}',
        "believed = {namespace}",
    ),
    Fault(
        "a failure of one namespace replaces that of another",
        "core/market/hosts.py",
        "key = (trial.machine_id, trial.namespace)",
        'key = (trial.machine_id, "")',
    ),
    Fault(
        "whose word it was is not stored",
        "controller/machine_book.py",
        """{namespace and '.'}{namespace}""",
        "",
    ),
    Fault(
        "nobody's is what a job's end has shown",
        "core/node/release.py",
        "namespace=seen.node.metadata.namespace,",
        'namespace="",',
    ),
    Fault(
        "a machine is judged for a namespace that nobody has",
        "core/cost/choice.py",
        """        whose = question.template.tenant
        return""",
        """        whose = ""
        return""",
    ),
    Fault(
        "no second is left to run, and it is rented",
        "core/cost/run_bound.py",
        "if left <= 0:",
        "if left < 0:",
    ),
    Fault(
        "late is only what was decided",
        "core/node/punctuality.py",
        "(asked - (end.due_at or end.at)).total_seconds()",
        "(asked - end.at).total_seconds()",
    ),
    Fault(
        "a late proof is our fault",
        "core/node/punctuality.py",
        "return (asked - ",
        "return ((node.status.released_at or asked) - ",
    ),
    Fault(
        "the metric shows only destroys that are proved",
        "core/node/punctuality.py",
        "if (one.status.destroy_asked_at or since) > since)",
        "if (one.status.released_at or since) > since)",
    ),
    Fault(
        "a record that was deleted is an empty one",
        "controller/machine_book.py",
        "None if destroys is None else remembered_destroys(destroys, shown)",
        "destroys",
    ),
    Fault(
        "a record that was deleted is not written again",
        "controller/machine_book.py",
        "elif self._unwritten or self.destroys:",
        "elif self._unwritten:",
    ),
    Fault(
        "a spoilt record is an empty one",
        "controller/machine_book.py",
        """problem=str(error)[:500])
        return None""",
        """problem=str(error)[:500])
        return ()""",
    ),
    Fault(
        "silence is run time",
        "core/node/deadlines.py",
        "if ran_seconds(seen) - silence < deadline:",
        "if silence < 0:",
    ),
    # --- What is learnt of jobs ---------------------------------------------------------------
    Fault(
        "a job that runs on beyond its bound counts when it has ended",
        "core/cost/window.py",
        "at_risk = above = len(self._order) + self.expected.overdue(now) + 1",
        "at_risk = above = len(self._order) + 1",
    ),
    Fault(
        "the job that is asked about is no draw",
        "core/cost/window.py",
        "at_risk = above = len(self._order) + self.expected.overdue(now) + 1",
        "at_risk = above = len(self._order) + self.expected.overdue(now)",
    ),
    Fault(
        "eighteen runs are enough",
        "core/cost/window.py",
        """RUNS_MIN = 19
""",
        """RUNS_MIN = 18
""",
    ),
    Fault(
        "a window forgets nothing",
        "core/cost/window.py",
        """        if len(self._order) == RUNS_KEPT:
""",
        """        if len(self._order) < 0:
""",
    ),
    Fault(
        "a run cut short is its end",
        "core/cost/experience.py",
        "Outcome.CUT: Kind.AT_LEAST}",
        "Outcome.CUT: Kind.EXACT}",
    ),
    Fault(
        "a run cut short says nothing",
        "core/cost/window.py",
        """            at_risk, begin = at_risk - ended - 1, end
""",
        """            at_risk, begin = at_risk - ended - 1, end
            above, of = at_risk, (of * at_risk) // above
""",
    ),
    Fault(
        "what was stopped has ended",
        "core/cost/experience.py",
        "{Outcome.STOPPED: Kind.ENDLESS,",
        "{Outcome.STOPPED: Kind.EXACT,",
    ),
    Fault(
        "others end sooner, so what was stopped will",
        "core/cost/experience.py",
        "if leaf is not None and leaf.is_endless(error):",
        "if leaf is None:",
    ),
    Fault(
        "a crash is a run",
        "core/cost/experience.py",
        """            if lesson.outcome is Outcome.CRASHED:
                self._window(key)""",
        """            if lesson.outcome is Outcome.VOID:
                self._window(key)""",
    ),
    Fault(
        "all crashes count",
        "core/cost/window.py",
        "return min(self._crashed.bit_count(), runs // RUNS_PER_CRASH)",
        "return self._crashed.bit_count()",
    ),
    Fault(
        "what never ran teaches",
        "core/cost/experience.py",
        "if outcome is Outcome.VOID or not 0 < value < inf:",
        "if not 0 < value < inf:",
    ),
    Fault(
        "a template is proven from the first",
        "core/cost/window.py",
        "return missed <= error * (min(self._told + overdue, RUNS_KEPT) + 1)",
        "return missed > 0",
    ),
    Fault(
        "a record waits for the end of the job",
        "core/cost/window.py",
        """        overdue = self._promised.overdue(now)
        missed =""",
        """        overdue = 0
        missed =""",
    ),
    Fault(
        "a burst is bounded by what others take",
        "core/cost/experience.py",
        "wider = max(wider, leaf.largest + scaled(BURST_TIMES))",
        "wider = max(wider, leaf.largest)",
    ),
    Fault(
        "a pooled bound has no limit",
        "core/cost/experience.py",
        "return min(longest + scaled(LONGEST_TIMES), FOREVER)",
        "return FOREVER",
    ),
    Fault(
        "one tenant may fill what all learn from",
        "core/cost/window.py",
        "return min(max(TENANT_MIN, others // 2), SHARED_KEPT // 3)",
        "return SHARED_KEPT",
    ),
    Fault(
        "overdue jobs of one tenant all count",
        "core/cost/window.py",
        "min(found, self.share(tenant))",
        "found",
    ),
    Fault(
        "templates are everybody's",
        "core/cost/template.py",
        'Template(namespace, (f"{namespace}/{template}",',
        'Template(namespace, (f"{template}",',
    ),
    Fault(
        "a key forgets the arguments",
        "core/cost/template.py",
        '"args": spec.args}',
        '"args": ()}',
    ),
    Fault(
        "each quantity has all of the error",
        "core/cost/error_budget.py",
        "error - sum(shares.values())",
        "error",
    ),
    Fault(
        "a confidence is what nearly fits",
        "core/cost/error_budget.py",
        "return 1 - Fraction(high, parts)",
        "return 1 - Fraction(low, parts)",
    ),
    Fault(
        "twice the error is allowed",
        "core/cost/experience.py",
        "own, level = self._own(template, now, error)",
        "own, level = self._own(template, now, error := 2 * error)",
    ),
    Fault(
        "the smaller of two bounds is given",
        "core/cost/experience.py",
        "wider = max((one for",
        "wider = min((one for",
    ),
    Fault(
        "a value is rounded down",
        "core/cost/window.py",
        "return ceil(log(seconds) * UNIT)",
        "return int(log(seconds) * UNIT)",
    ),
    Fault(
        "a job may take what such jobs took, whatever its deadline",
        "core/cost/run_bound.py",
        "return found if found.seconds < left else None",
        "return found",
    ),
    Fault(
        "the confidence that is asked for is ignored",
        "core/cost/run_bound.py",
        "error = 1 - Fraction(question.spec.cost.confidence)",
        "error = Fraction(1, 20)",
    ),
    Fault(
        "the run time has a share of the error that nobody has given it",
        "core/cost/run_bound.py",
        "return error_shares(error, {Quantity.RUN})[Quantity.RUN]",
        "return 2 * error_shares(error, {Quantity.RUN})[Quantity.RUN]",
    ),
    Fault(
        "what a tenant's other jobs took admits a fresh one",
        "core/cost/run_bound.py",
        "if bound.level != OWN and not bound.is_pooled:",
        "if bound.value is None:",
    ),
    Fault(
        "a fault of the estimator is no refusal",
        "core/cost/run_bound.py",
        "except Exception as fault:",
        "except ValueError as fault:",
    ),
    Fault(
        "a run without a deadline outlasts its host's contract",
        "core/cost/gate.py",
        "return min(by_money, int(chosen.offer.contract_seconds - lag))",
        "return by_money",
    ),
    Fault(
        "what the fuse stopped was cut short",
        "core/node/learning.py",
        "        Reason.BUDGET_EXHAUSTED,\n",
        "",
    ),
    Fault(
        "earlier attempts are no part of a run",
        "core/node/learning.py",
        "earlier = rent.earlier_run_seconds + status.earlier_run_seconds",
        "earlier = status.earlier_run_seconds",
    ),
    Fault(
        "a profile that was changed is believed",
        "core/cost/profile.py",
        "spec.version == PROFILE_VERSION and spec.checksum == _checksum(spec)",
        "spec.version == PROFILE_VERSION",
    ),
    Fault(
        "a profile of another version is believed",
        "core/cost/profile.py",
        "spec.version == PROFILE_VERSION and spec.checksum == _checksum(spec)",
        "spec.checksum == _checksum(spec)",
    ),
    Fault(
        "a profile under any name is believed",
        "core/cost/profile.py",
        'return template if metadata["name"] == profile_name(template) else None',
        "return template",
    ),
    Fault(
        "what was forgotten is learnt again",
        "core/cost/profile.py",
        "if self.since is not None and ended <= self.since:",
        "if self.since is None and not ended:",
    ),
    Fault(
        "a run counts again after a restart",
        "controller/profile_book.py",
        "if held.has_learnt(run.node_uid, run.ended) or run.node_uid in waiting:",
        "if run.node_uid in waiting:",
    ),
    Fault(
        "what runs is not known when the profiles are read",
        "controller/profile_book.py",
        "                    events.append((run.started, 1, run))\n",
        "                    pass\n",
    ),
    Fault(
        "what cannot be read is an empty history",
        "controller/profile_book.py",
        """        except ClusterError as error:
            self.experience = None
""",
        """        except ClusterError as error:
            self.experience = Experience()
""",
    ),
    # --- The provider's pace ------------------------------------------------------------------
    Fault(
        "requests keep no interval",
        "core/market/pace.py",
        "        queue.free_at = now + queue.interval\n",
        "        queue.free_at = now\n",
    ),
    Fault(
        "an interval begins when the request leaves",
        "core/market/pace.py",
        "self.arrived(kind, min(now, sent_at + WAY_SECONDS))",
        "self.arrived(kind, sent_at)",
    ),
    Fault(
        "a search goes before a destroy",
        "core/market/pace.py",
        "return self in (Kind.RENT, Kind.SEARCH)",
        "return self is Kind.RENT",
    ),
    Fault(
        "one namespace holds up all others",
        "core/market/pace.py",
        "        queue.served[ticket.namespace] = self._turns\n",
        "        queue.served[ticket.namespace] = -1\n",
    ),
    Fault(
        "a refusal holds destroys back for a day",
        "core/market/pace.py",
        "queue.free_at = max(queue.free_at, now + min(pause, BACKOFF_MAX_SECONDS))",
        "queue.free_at = max(queue.free_at, now + pause)",
    ),
    Fault(
        "a loop that hangs holds up the other",
        "core/market/pace.py",
        "            if back_at + LATE_SECONDS < now:\n",
        "            if False:\n",
    ),
    Fault(
        "those who are ready take all searches",
        "core/market/search.py",
        "is_others_turn = ready_in_row >= READY_IN_ROW",
        "is_others_turn = False",
    ),
    Fault(
        "an offer that was asked for once is never offered again",
        "controller/price_watch.py",
        "self._taken.get(offer_id, -inf) < TAKEN_SECONDS",
        "self._taken.get(offer_id, -inf) < inf",
    ),
    Fault(
        "a machine that stays is destroyed again and again",
        "controller/destroys.py",
        "and self._clock.monotonic() >= last + pause",
        "and self._clock.monotonic() >= last",
    ),
    Fault(
        "two rents go at once",
        "adapters/door.py",
        "            if self._renting is not None:\n",
        "            if False:\n",
    ),
    Fault(
        "a new process does not wait for what the last one sent",
        "core/market/pace.py",
        "kind: _Queue(kind.interval_seconds * spacing, now + kind.interval_seconds * spacing)",
        "kind: _Queue(kind.interval_seconds * spacing, now)",
    ),
    Fault(
        "an offer that was asked for is offered again",
        "controller/price_watch.py",
        "            if not self.is_taken(offer.offer_id)\n",
        "            if offer.offer_id\n",
    ),
    Fault(
        "a full page is taken for the whole market",
        "core/market/search.py",
        "    if not quotes.is_full or quotes.dearest_usd_per_hour is None:\n",
        "    if True or quotes.dearest_usd_per_hour is None:\n",
    ),
    Fault(
        "waiting jobs use up all searches",
        "core/market/search.py",
        "if want.is_ready or is_others_turn or now >= waiting_from",
        "if want.is_ready or now >= 0",
    ),
    Fault(
        "the sweep trusts in the market watch alone",
        "controller/sweep.py",
        "        if found is None or found is self._used:\n",
        "        if found is None:\n",
    ),
    Fault(
        "a listing of many pages is said to take no longer",
        "core/limits.py",
        "return max(self.poll_seconds, (leases // PAGE_LEASES + 1) * page_seconds)",
        "return self.poll_seconds",
    ),
    # --- Accounts and interruptions -------------------------------------------------------------
    Fault(
        "a node may rent with any account",
        "core/node/rent.py",
        "if job.status.node_account_id != world.account_id:",
        "if job.status.node_account_id is None:",
    ),
    Fault(
        "a vanished node is sought on any account",
        "core/job/after_attempt.py",
        "account_id=account,",
        "account_id=world.account_id or 0,",
    ),
    Fault(
        "a bid is no part of the request",
        "core/node/rent.py",
        "bid_usd_per_hour=admission.offer.bid_usd_per_hour,",
        "bid_usd_per_hour=None,",
    ),
    Fault(
        "a paused machine is told to run",
        "core/machine/assignment.py",
        "if status.machine is None or stage is Stage.PAUSED:",
        "if status.machine is None:",
    ),
    Fault(
        "an earlier run's word starts this one",
        "core/node/facts.py",
        "return report if report and report.run_number == seen.node.status.run_number else None",
        "return report",
    ),
    Fault(
        "one look at a stopped machine pauses it",
        "core/node/facts.py",
        "for back in range(1, UNREPEATED_STATUSES + 1)]",
        "for back in range(1, 2)]",
    ),
    Fault(
        "silence is death",
        "core/node/contact.py",
        "patience = min(max(wanted, shortest), longest)",
        "patience = 0.0",
    ),
    Fault(
        "the provider's word alone is death",
        "core/node/contact.py",
        "denied >= (patience if silent is None else longest)",
        "denied >= 0",
    ),
    Fault(
        "the driver's contact proves a machine for ever",
        "core/node/contact.py",
        "denied >= (patience if silent is None else longest)",
        "silent is None and denied >= patience",
    ),
    Fault(
        "a listing without the machine takes back what was said of it",
        "core/node/contact.py",
        "        return before\n    if shown.status",
        "        return None\n    if shown.status",
    ),
    Fault(
        "a cut-off leader forgets the fuses",
        "core/cost/fuse.py",
        "< rent.money_deadline_seconds:",
        "< rent.money_deadline_seconds * 1000:",
    ),
    Fault(
        "nobody who has lost the lock guards fuses",
        "controller/fuse_guard.py",
        "late = overdue(nodes, await",
        "late = overdue(nodes[:0], await",
    ),
    Fault(
        "a second interruption has the number of the first",
        "core/node/interruption.py",
        "count=status.run_number + 1,\n            paused_at=now,",
        "count=1,\n            paused_at=now,",
    ),
    Fault(
        "a machine that is back counts anew",
        "core/machine/start_script.py",
        "began=$(cat $g/began 2>/dev/null)",
        "began=",
    ),
    Fault(
        "a container that restarts may download anew",
        "core/machine/start_script.py",
        "read -r down up 2>/dev/null < $g/traffic",
        "down=0 up=0",
    ),
    Fault(
        "a machine counts no uploads",
        "core/machine/start_script.py",
        '[ "$down" -gt @DOWN@ ] || [ "$up" -gt @UP@ ] && gone',
        '[ "$down" -gt @DOWN@ ] && gone',
    ),
    Fault(
        "bytes that stay within a machine count",
        "core/machine/start_script.py",
        '[ "$j" = /lo ] && continue',
        "",
    ),
    # --- Machines that are measured, workloads that end, files -------------------------------
    Fault(
        "any machine is good enough",
        "core/node/run.py",
        "if (refused := refusal(measured, job.spec, status.rent, seen.world.limits)) is not None:",
        "if (refused := None) is not None:",
    ),
    Fault(
        "a GPU is what its offer says",
        "core/market/gpu_models.py",
        "return claimed == shown and",
        "return",
    ),
    Fault(
        "a name of several series is any of them",
        "core/market/gpu_models.py",
        "if len({_identity(model) for model in models}) > 1:",
        "if False:",
    ),
    Fault(
        "a name of two sizes is the smaller one",
        "core/market/gpu_models.py",
        "if made and not sizes and memory_gb is None:",
        "if False:",
    ),
    Fault(
        "the memory in a GPU's name is not looked for",
        "core/market/offers.py",
        "if least is None or (least and offer.gpu_memory_gb < least):",
        "if least is None:",
    ),
    Fault(
        "a machine without a watchdog is taken",
        "core/machine/preflight.py",
        "if not measured.watchdog_runs:",
        "if False:",
    ),
    Fault(
        "a manifest's anchors multiply",
        "server/http_api/yaml_bodies.py",
        "if self._size > SIZE_MAX:",
        "if False:",
    ),
    Fault(
        "a review may hold millions of values",
        "server/admission.py",
        "        BOUNDS.check(raw)\n",
        "",
    ),
    Fault(
        "what is in texts counts for structure",
        "api/foreign.py",
        'bare = _TEXT.sub(b"", raw)',
        "bare = raw",
    ),
    Fault(
        "values are counted without the members of objects",
        "api/foreign.py",
        'opened = bare.count(b"[") + bare.count(b"{")',
        'opened = bare.count(b"[")',
    ),
    Fault(
        "every wrong item of a list is told",
        "api/gpujob.py",
        "        tuple[EnvVar, ...],\n        FailFast(),\n",
        "        tuple[EnvVar, ...],\n",
    ),
    Fault(
        "an authority signs for any name",
        "adapters/pki.py",
        "    if names:\n        # Whoever trusts it",
        "    if not names:\n        # Whoever trusts it",
    ),
    Fault(
        "an authority is kept for names that it cannot sign for",
        "core/certificates.py",
        "return names <= self.names and until <= self.ends_at",
        "return until <= self.ends_at",
    ),
    Fault(
        "a certificate of the API server is asked for, and not demanded",
        "web/client_certificates.py",
        "context.verify_mode = ssl.CERT_REQUIRED",
        "context.verify_mode = ssl.CERT_OPTIONAL",
    ),
    Fault(
        "whatever an authority has signed may call admission",
        "web/client_certificates.py",
        "if len(names) == 1 and names[0] in self._names:",
        "if len(names) == 1:",
    ),
    Fault(
        "one of a caller's names is enough",
        "web/client_certificates.py",
        "if len(names) == 1 and names[0] in self._names:",
        "if self._names & set(names):",
    ),
    Fault(
        "strangers fill the log",
        "web/client_certificates.py",
        "if not self._told.take(kind):",
        "if True:",
    ),
    Fault(
        "a caller whose name is wrong is answered",
        "web/listener.py",
        "if secured is None or self._is_lost or not self._lets_in(secured):",
        "if secured is None or self._is_lost:",
    ),
    Fault(
        "the server does not say whom admission may know",
        "server/main.py",
        "        _admission_clients(settings),\n",
        "",
    ),
    Fault(
        "an authority is believed without names",
        "server/settings.py",
        "if bool(authorities) != bool(names):",
        "if names and not authorities:",
    ),
    Fault(
        "an authority's key is taken with it",
        "adapters/pki.py",
        'if "PRIVATE KEY" in text:',
        "if not text:",
    ),
    Fault(
        "a client's own certificate is an authority",
        "adapters/pki.py",
        "        if not _is_authority(one):",
        "        if not one:",
    ),
    Fault(
        "half-open handshakes are not counted",
        "web/listener.py",
        "        self._inside.enter(transport)",
        "        pass",
    ),
    Fault(
        "a handshake has all the time that it wants",
        "web/listener.py",
        "ssl_handshake_timeout=HANDSHAKE_SECONDS,",
        "ssl_handshake_timeout=600,",
    ),
    Fault(
        "newcomers keep others out",
        "web/listener.py",
        "if counts[address] + 1 >= most:",
        "if most:",
    ),
    Fault(
        "who was answered stays a newcomer",
        "web/listener.py",
        "            self.leave()\n            self._stop_waiting()",
        "            self._stop_waiting()",
    ),
    Fault(
        "a stranger's connection stays open",
        "web/problems.py",
        '"WWW-Authenticate": "Bearer", "Connection": "close"}',
        '"WWW-Authenticate": "Bearer"}',
    ),
    Fault(
        "one caller's bodies take the place of all",
        "web/bodies.py",
        "more > self._most // SHARES",
        "more > self._most",
    ),
    Fault(
        "a slow body keeps its place",
        "web/bodies.py",
        "one.patience.reschedule(now)",
        "pass",
    ),
    Fault(
        "what a body held is held for ever",
        "web/bodies.py",
        "self._by_caller[whose] -= body.size",
        "pass",
    ),
    Fault(
        "who still sends never sees an early answer",
        "web/lingering.py",
        "last, message = {",
        "_, message = {",
    ),
    Fault(
        "a body that never ends is read for ever",
        "web/lingering.py",
        "asyncio.timeout(seconds)",
        "asyncio.timeout(None)",
    ),
    Fault(
        "a stranger sends for ever what nobody reads",
        "web/lingering.py",
        'MutableHeaders(scope=message)["connection"] = "close"',
        "pass",
    ),
    Fault(
        "a long body is read as long as it comes",
        "web/lingering.py",
        "size <= LINGER_BYTES_MAX",
        "size >= 0",
    ),
    Fault(
        "who asks before he sends is told to send what nobody reads",
        "web/lingering.py",
        "if not is_held_back:",
        "if True:",
    ),
    Fault(
        "one namespace's streams keep others out",
        "server/http_api/open_streams.py",
        "if counts[place.namespace] + 1 >= most:",
        "if True:",
    ),
    Fault(
        "one namespace's streams end another's that has fewer",
        "server/http_api/open_streams.py",
        "if counts[place.namespace] + 1 >= most:",
        "if False:",
    ),
    Fault(
        "estimates of one namespace keep others from the market",
        "controller/price_watch.py",
        "is_early = self._estimating[namespace] < ESTIMATES_MAX",
        "is_early = self._estimating.total() < ESTIMATES_MAX",
    ),
    Fault(
        "all estimates are one namespace's",
        "controller/price_watch.py",
        "self.quotes(spec, namespace=namespace)",
        'self.quotes(spec, namespace="greedy")',
    ),
    Fault(
        "the API creates a job beside the account's key",
        "server/http_api/new_jobs.py",
        "places = place_faults(namespace, backend.own_namespace)",
        "places = ()",
    ),
    Fault(
        "the webhook lets a job be beside the account's key",
        "server/admission.py",
        "more = place_faults(asked.namespace, own_namespace)",
        "more = place_faults(asked.namespace, asked.namespace + 'x')",
    ),
    Fault(
        "the webhook lets anybody mark a job",
        "server/admission.py",
        'if asked.operation == "CREATE" and asked.user_info.username != ours:',
        "if False:",
    ),
    Fault(
        "an address may try any number of tokens",
        "server/http_api/guard.py",
        "self._wrong.take(network)",
        "pass",
    ),
    Fault(
        "a good token waits for wrong ones from its address",
        "server/http_api/guard.py",
        "if wait and not self._callers.is_known(token):",
        "if wait:",
    ),
    Fault(
        "whoever has a network of addresses may try as often",
        "server/http_api/guard.py",
        "int(address) >> 64 << 64, 64",
        "int(address), 128",
    ),
    Fault(
        "every address is remembered",
        "web/rate_limit.py",
        "if len(self._left) > self._callers_max:",
        "if False:",
    ),
    Fault(
        "a mark of the API does not depend on its key",
        "core/mark_keys.py",
        "self.secret.get_secret_value(), told",
        'b"key", told',
    ),
    Fault(
        "other texts have the same mark",
        "core/mark_keys.py",
        'b"%d:%s," % (len(raw), raw)',
        'b"%s" % raw',
    ),
    Fault(
        "a new key forgets what was marked before",
        "core/mark_keys.py",
        "made), *keys[:1])",
        "made),)",
    ),
    Fault(
        "a new key is used before all have read it",
        "core/mark_keys.py",
        "if now - key.made_at >= OVERLAP",
        "if True",
    ),
    Fault(
        "anybody marks a job as ours",
        "core/spec_faults.py",
        "if is_below_group(key) and key not in theirs:",
        "if False:",
    ),
    Fault(
        "a backup of finished jobs is refused",
        "core/spec_faults.py",
        'theirs = MARKS_OF_USERS if field == "annotations" else ()',
        "theirs: tuple[str, ...] = ()",
    ),
    Fault(
        "a spec may be as long as etcd takes it",
        "core/spec_faults.py",
        "if (size := len(json_of(spec))) > SPEC_BYTES_MAX:",
        "if (size := 0) > SPEC_BYTES_MAX:",
    ),
    Fault(
        "a job that is too long is held whole",
        "controller/cache.py",
        "is not None or _is_too_big(body)",
        "is not None",
    ),
    Fault(
        "what others note on a job is held too",
        "controller/cache.py",
        'meta["annotations"] = {ANNOTATION_FINISHED: told} if told else {}',
        "del told",
    ),
    Fault(
        "a page of large objects is read whatever it takes",
        "adapters/kube.py",
        "limit // 4 or 1, token",
        "limit, token",
    ),
    Fault(
        "a word that readers read differently is guessed",
        "server/http_api/yaml_bodies.py",
        "if _AMBIGUOUS.fullmatch(text):",
        "if False:",
    ),
    Fault(
        "a machine that nobody can stop only runs",
        "core/conditions.py",
        "if not leased or not_ready is None or ",
        "if True or not_ready is None or ",
    ),
    Fault(
        "a released machine shows its price",
        "core/conditions.py",
        "status.lease.usd_per_hour if status.lease and leased else None",
        "status.lease.usd_per_hour if status.lease else None",
    ),
    Fault(
        "whoever creates a job does not hear that nobody leads",
        "core/admission.py",
        "unled = (UNLED,) if nobody_leads else ()",
        "unled: tuple[str, ...] = ()",
    ),
    Fault(
        "a node goes before its job",
        "core/node/release.py",
        "kept = limits.node_retention_seconds if _has_job(seen) else 0",
        "kept = 0",
    ),
    Fault(
        "a node is in the way of its job's successor",
        "core/node/release.py",
        "kept = limits.node_retention_seconds if _has_job(seen) else 0",
        "kept = limits.node_retention_seconds",
    ),
    Fault(
        "a bad machine is forgotten",
        "core/node/release.py",
        "failed = _blamed(status.end) is Blame.HOST",
        "failed = False",
    ),
    Fault(
        "a workload has all the time to end",
        "core/node/facts.py",
        "return min(left, drain, money_seconds_left(seen))",
        "return max(left, 1.0)",
    ),
    Fault(
        "the fuse leaves no time to save anything",
        "core/node/deadlines.py",
        "left <= stop_seconds(seen):",
        "left <= 0:",
    ),
    Fault(
        "the fuse has no time for much to copy",
        "core/cost/estimate.py",
        "needs.delivered_gb * KILOBITS_PER_GB",
        "needs.delivered_gb * 0",
    ),
    Fault(
        "what has just begun is not told to end",
        "core/node/stage.py",
        "frozenset({Stage.STARTING, Stage.RUNNING, Stage.STOPPING, Stage.DELIVERING})",
        "frozenset({Stage.RUNNING, Stage.STOPPING, Stage.DELIVERING})",
    ),
    Fault(
        "a status that contradicts itself goes on",
        "core/node/release.py",
        "    if not stage.is_contradiction:\n        return None\n    plan = end(",
        "    if True:\n        return None\n    plan = end(",
    ),
    Fault(
        "a machine without a marker costs nothing",
        "core/node/charge.py",
        "        return parse_usd(most_reserved_usd(seen.node))",
        "        return 0",
    ),
    Fault(
        "a machine without a lease is nobody's",
        "core/node/stage.py",
        "return self.is_contradiction or self in _MAY_HOLD_MACHINE",
        "return self in _MAY_HOLD_MACHINE",
    ),
    Fault(
        "how a job ended is forgotten as it is let go",
        "core/conditions.py",
        "        reason, message = over\n",
        "        _, message = over\n",
    ),
    Fault(
        "a job that an older version finished runs again",
        "core/job/end.py",
        "return status.end is not None or status.completion_time is not None",
        "return status.end is not None",
    ),
    Fault(
        "a workload that ends badly counts to no limit",
        "api/reasons.py",
        "WORKLOADS = _attempt(Blame.JOB, counts_to=Limit.BACKOFF_LIMIT)",
        "WORKLOADS = _attempt(Blame.JOB, counts_to=Limit.NONE)",
    ),
    Fault(
        "one sample without load is idleness",
        "core/node/deadlines.py",
        "usage.idle_samples < IDLE_SAMPLES_MIN:",
        "False:",
    ),
    Fault(
        "a success without its files is one",
        "core/node/outcome.py",
        "return Reason.OUTPUT_LOST if reason is Reason.COMPLETED else reason, ",
        "return reason, ",
    ),
    Fault(
        "files move beyond all caps while they are copied",
        "core/node/stopping.py",
        "(end_if_faulty, run_again, enforce_caps, give_up_lost, start_driver, keep_up):",
        "(end_if_faulty, run_again, give_up_lost, start_driver, keep_up):",
    ),
    Fault(
        "nobody minds the machine while files are copied",
        "core/node/stopping.py",
        "(end_if_faulty, run_again, enforce_caps, give_up_lost, start_driver, keep_up):",
        "(enforce_caps,):",
    ),
    Fault(
        "a workload that was told to end is begun",
        "driver/work.py",
        "if self._assignment.instruction is Instruction.RUN:",
        "if True:",
    ),
    Fault(
        "one address with another key ends the attempt",
        "driver/ways.py",
        "self._strange_rounds >= STRANGE_ROUNDS_MAX",
        "True",
    ),
    Fault(
        "one address is enough",
        "driver/ways.py",
        "for one in (machine, *machine.others)]",
        "for one in (machine,)]",
    ),
    Fault(
        "a new address starts the work over",
        "driver/work.py",
        "return Place(assignment.machine.host_key, run_number)",
        "return Place(str(assignment.machine), run_number)",
    ),
    Fault(
        "a job may be beside the account's key",
        "core/spec_faults.py",
        "if namespace != own_namespace and not",
        "if not",
    ),
    Fault(
        "a machine that is gone is shown as the current one",
        "core/job/after_attempt.py",
        '"usd_per_hour": None,',
        "",
    ),
    Fault(
        "a relative folder is looked for in root's home",
        "driver/listing.py",
        'cat {kept} || echo .)"/',
        'echo . || echo .)"/',
    ),
    Fault(
        "a listing may send the driver into our own network",
        "adapters/vast_wire.py",
        "is_public = address.is_global and not address.is_multicast",
        "is_public = True",
    ),
    Fault(
        "the driver goes to any machine that it is told",
        "driver/work.py",
        "self._check_pin(machine)\n",
        "pass\n",
    ),
    Fault(
        "a kept log begins anew",
        "driver/output.py",
        "memoryview(data)[max(sink.value - at, 0) :]",
        "memoryview(data)",
    ),
    Fault(
        "a link on a claim is followed",
        "driver/places.py",
        "os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC",
        "os.O_DIRECTORY | os.O_CLOEXEC",
    ),
    Fault(
        "traffic of files has no cap",
        "driver/files.py",
        "if count > self.left - beside:",
        "if False:",
    ),
    Fault(
        "a copy is not compared",
        "driver/pulling.py",
        "if at != entry.size or digest.hexdigest() != await right:",
        "if at != entry.size or not await right:",
    ),
    Fault(
        "a bundle is not compared",
        "driver/pulling.py",
        "if hashlib.sha256(data).hexdigest() != sums.get(entry.name):",
        "if sums.get(entry.name) is None:",
    ),
    # --- Whose fault it is --------------------------------------------------------------------
    Fault(
        "one listing's words end a job",
        "core/node/ends.py",
        "if not is_refused(lease) or not (known or is_repeated(seen, is_refused)):",
        "if not is_refused(lease):",
    ),
    Fault(
        "what passes is for good",
        "core/market/images.py",
        "    if _PASSING.search(said):\n",
        "    if False:\n",
    ),
    Fault(
        "an image's name is its registry's word",
        "core/market/images.py",
        "said = _without_name(words, image)",
        "said = words",
    ),
    Fault(
        "one team's image is everybody's",
        "core/market/images.py",
        "if (one.namespace, one.image) == (namespace, image) and _is_fresh(one, now)",
        "if one.image == image and _is_fresh(one, now)",
    ),
    Fault(
        "what was learnt of an image never fades",
        "core/market/images.py",
        "return now - trial.at < IMAGES_REMEMBERED_FOR",
        "return True",
    ),
    Fault(
        "an image that nobody knows is the host's fault",
        "core/node/blame.py",
        "return Blame.PROVIDER if unproven and not evidence.image_works else reason.kind.blames",
        "return reason.kind.blames",
    ),
    Fault(
        "a good image excuses its host",
        "core/node/blame.py",
        "return Blame.PROVIDER if unproven and not evidence.image_works else reason.kind.blames",
        "return Blame.PROVIDER if unproven else reason.kind.blames",
    ),
    Fault(
        "one host is as good as two",
        "core/node/facts.py",
        "return (others | own) - {rent.host_id}",
        "return others | own",
    ),
    Fault(
        "an unknown host is another one",
        "core/node/facts.py",
        "if job is None or rent is None or not rent.host_id:",
        "if job is None or rent is None:",
    ),
    Fault(
        "a machine is told to run again and again",
        "core/node/ends.py",
        "if lease.told_to_run_at is None:",
        "if lease.told_to_run_at is None or still:",
    ),
    Fault(
        "a machine that stands still is kept until the boot cap",
        "core/node/ends.py",
        "left = seen.world.limits.standstill_seconds -",
        "left = seen.world.limits.boot_cap_seconds -",
    ),
    Fault(
        "a restarted machine runs on",
        "driver/supervisor.py",
        '[ "$(cat "$dir/born")" != "$(born)" ]',
        '[ "$(born)" != "$(born)" ]',
    ),
    Fault(
        "what was quiet for a second is followed no more",
        "driver/supervisor.py",
        " || [ $((quiet % 5)) = 0 ]; then",
        "; then",
    ),
    Fault(
        "any process with its pid is the supervisor",
        "driver/supervisor.py",
        '  [ -z "$2" ] || { since "$1"; [ "$2" = "$ticks" ]; } || return 1\n',
        "",
    ),
    Fault(
        "a machine may restart for ever",
        "core/node/interruption.py",
        "past.restarts >= RESTARTS_MAX:",
        "past.restarts < 0:",
    ),
    Fault(
        "an earlier run's restart is this one's",
        "core/node/interruption.py",
        "seen.node.status, seen.world.now, present_report(seen)\n    # What",
        "seen.node.status, seen.world.now, seen.report\n    # What",
    ),
    Fault(
        "a machine's word lengthens a run",
        "core/node/interruption.py",
        "min(report.run_seconds, longest)",
        "report.run_seconds",
    ),
    Fault(
        "any line is fast enough",
        "core/cost/estimate.py",
        "return loading is not None and loading <= self._cap",
        "return True",
    ),
    Fault(
        "a line that nobody knows is fast",
        "core/cost/estimate.py",
        "if mbps else None",
        "if mbps else 0",
    ),
    Fault(
        "a fast line lowers the bound",
        "core/cost/estimate.py",
        "return self._time_microusd(offer, self._lease_ms(offer)) + self.traffic_microusd(offer)",
        "return self.likely_microusd(offer)",
    ),
    Fault(
        "the time to load costs nothing",
        "core/cost/estimate.py",
        "saved = 0 if loading is None else self._cap - min(self._cap, loading)",
        "saved = 0",
    ),
    Fault(
        "a lost race is a rent",
        "api/reasons.py",
        "RACE = _attempt(Blame.PROVIDER, counts_to=Limit.NONE)",
        "RACE = _attempt(Blame.PROVIDER)",
    ),
    Fault(
        "races are lost without a pause",
        "core/job/after_attempt.py",
        "status.failures + status.disruptions + _uncounted(status.attempts)",
        "status.failures + status.disruptions",
    ),
    Fault(
        "a failure is paid again unasked",
        "api/gpujob.py",
        "    ] = 0\n    failure_policy:",
        "    ] = 2\n    failure_policy:",
    ),
    # --- Sweep --------------------------------------------------------------------------------
    Fault(
        "the sweep asks no age",
        "core/sweep.py",
        "if max(seen_for, age) >= limits.list_lag_seconds:",
        "if max(seen_for, age) >= 0:",
    ),
    Fault(
        "a released node owns its machine",
        "core/sweep.py",
        "if owner is not None and not owner.is_released:",
        "if owner is not None:",
    ),
    Fault(
        "the sweep takes what is foreign",
        "core/sweep.py",
        "if mark is None or mark.cluster_id != cluster_id:",
        "if mark is None:",
    ),
    Fault(
        "the sweep believes in many orphans",
        "core/sweep.py",
        "if len(found) <= few:",
        "if len(found) <= few * 1000:",
    ),
    Fault(
        "the sweep looks at the nodes first",
        "controller/sweep.py",
        """        listing = await self._listing(vast)
        nodes = await kube.list_all("GpuNode", fields=self.fields)
""",
        """        nodes, self.fields = await kube.list_all("GpuNode"), ""
        listing = await self._listing(vast)
""",
    ),
    # --- Leader lock --------------------------------------------------------------------------
    Fault(
        "two leaders rent",
        "core/leader_lock.py",
        "return unchanged_seconds >= record.duration_seconds",
        "return True",
    ),
    Fault(
        "a leader that is cut off goes on",
        "controller/leader_lock.py",
        "if not renewed and self._clock.monotonic() >= until:",
        "if not renewed and self._clock.monotonic() >= until + 3600:",
    ),
    Fault(
        "a leader counts from the answer",
        "controller/leader_lock.py",
        "            asked_at = self._clock.monotonic()\n",
        "            asked_at = self._clock.monotonic() + 10\n",
    ),
    Fault(
        "any Lease keeps a release from starting",
        "controller/other_releases.py",
        "if await self._is_controllers(name, lock):",
        "if True:",
    ),
    Fault(
        "a release that cannot be asked about is none",
        "controller/other_releases.py",
        '"other_release_unclear", lock=name, problem=str(error))\n            return True',
        '"other_release_unclear", lock=name, problem=str(error))\n            return False',
    ),
    Fault(
        "a lock is given back before the last write has landed",
        "controller/leader_lock.py",
        "                await asyncio.gather(self._write, return_exceptions=True)\n",
        "",
    ),
    Fault(
        "a lock that could not be given back is kept",
        "controller/leader_lock.py",
        """            log.warning("lock_unreachable", problem=str(error))
            return False
        log.info("lock_released")""",
        """            log.warning("lock_unreachable", problem=str(error))
            return True
        log.info("lock_released")""",
    ),
    Fault(
        "who answers a read leads",
        "controller/leader_lock.py",
        'if seen[0] == before[0] not in ("", self._identity) and seen != before:',
        "if seen[1]:",
    ),
    # --- HTTP API -----------------------------------------------------------------------------
    Fault(
        "an expired token is good",
        "core/api_tokens.py",
        "if found is None or (found.expires is not None and found.expires <= now):",
        "if found is None:",
    ),
    Fault(
        "a reader may write",
        "core/api_tokens.py",
        """return reaches and (self.access == "write" or not writes)""",
        "return reaches",
    ),
    Fault(
        "a token reaches other namespaces",
        "core/api_tokens.py",
        "return reaches and",
        "return bool(namespace) and",
    ),
    Fault(
        "any text may be a token",
        "core/api_tokens.py",
        "    if token_fault(token):\n        return None\n",
        "",
    ),
    Fault(
        "a token needs no checksum",
        "core/api_tokens.py",
        "if decoded[TOKEN_BYTES:] != _checksum(raw):",
        "if decoded[TOKEN_BYTES:] == raw:",
    ),
    Fault(
        "a driver's token waits behind those of strangers",
        "controller/driver_tokens.py",
        "claimed.uid if claimed and is_known else None",
        "None",
    ),
    Fault(
        "any number of strangers may wait",
        "web/token_reviews.py",
        "if self._strangers.waiting >= STRANGERS_WAITING:",
        "if self._strangers.waiting < 0:",
    ),
    Fault(
        "a token for the cluster is good for us",
        "web/token_reviews.py",
        "if not is_for_us and not self._takes_cluster_tokens:",
        "if not is_for_us and not token:",
    ),
    # --- Ports --------------------------------------------------------------------------------
    Fault(
        "somebody else's Service is taken for ours",
        "core/job/plan.py",
        "if seen.service_owner != job.metadata.uid:",
        "if seen.service_owner is None:",
    ),
    Fault(
        "a machine is rented without its Service",
        "core/job/plan.py",
        "    _create_service,  # The Service",
        "    # The Service",
    ),
    Fault(
        "any number of callers is answered",
        "driver/ports.py",
        "if len(calls) >= CONNECTIONS_MAX:",
        "if len(calls) < 0:",
    ),
    Fault(
        "a half that has ended is not told",
        "driver/ports.py",
        "    target.write_eof()\n",
        "",
    ),
    # --- Driver pods --------------------------------------------------------------------------
    Fault(
        "the outcome is whatever container comes first",
        "controller/pods.py",
        'next((one for one in statuses if one.get("name") == CONTAINER), {})',
        "next(iter(statuses), {})",
    ),
    Fault(
        "a driver that its sidecar outlives still runs",
        "controller/pods.py",
        """    is_outlived = phase == "Running" and _ended(driver).get("exitCode") == 0""",
        """    is_outlived = False""",
    ),
    Fault(
        "a failed driver is not started again",
        "controller/pods.py",
        """ and _ended(driver).get("exitCode") == 0""",
        """ and bool(_ended(driver))""",
    ),
    Fault(
        "sidecars run on for a day",
        "core/node/release.py",
        """pod.phase in ("Pending", "Running") or pod.is_outlived""",
        """pod.phase in ("Pending", "Running")""",
    ),
    Fault(
        "a job's label takes the place of our own",
        "core/machine/driver_pod.py",
        """"labels": pod["labels"] | own,""",
        """"labels": own | pod["labels"],""",
    ),
    Fault(
        "a driver's labels are checked by nobody",
        "core/spec_faults.py",
        "        elif is_own_key(key):\n",
        "        elif key == field:\n",
    ),
    Fault(
        "a job's priority may be the cluster's own",
        "core/spec_faults.py",
        """if (driver.priority_class_name or "").startswith(RESERVED_CLASSES):""",
        """if driver.priority_class_name == RESERVED_CLASSES:""",
    ),
    Fault(
        "a driver's limit may be 0, which is none",
        "api/driver_pod.py",
        "pattern=POSITIVE,",
        "pattern=QUANTITY,",
    ),
    Fault(
        "a job's annotation may take its driver's confinement away",
        "core/spec_faults.py",
        'if key.partition("/")[0] in CONFINEMENT:',
        "if key in CONFINEMENT:",
    ),
    Fault(
        "every label of a job is handed on",
        "core/observation.py",
        "for key in self.labels_to_copy if key in labels",
        "for key in labels",
    ),
    Fault(
        "a driver has the user of its image, whatever was chosen",
        "core/machine/driver_defaults.py",
        "    run_as_user: UserId | None = None",
        "    run_as_user: UserId | None = Field(None, exclude=True)",
    ),
    # --- Secrets ------------------------------------------------------------------------------
    Fault(
        "lines are not scrubbed",
        "adapters/sink.py",
        "return self._scrub(line)",
        "return line",
    ),
    Fault(
        "a request's headers are logged",
        "adapters/vast.py",
        """    return {"Authorization": bearer, "Accept": "application/json"}""",
        """    __import__("logging").getLogger("gpujob.vast").debug("asks with %s", bearer)
    return {"Authorization": bearer, "Accept": "application/json"}""",
    ),
    Fault(
        "an error says what the HTTP library says",
        "adapters/vast.py",
        "ProviderUnavailable(_why_silent(error))",
        "ProviderUnavailable(repr(error))",
    ),
    Fault(
        "an error shows its cause",
        "adapters/vast.py",
        "ProviderUnavailable(_why_silent(error)) from None",
        "ProviderUnavailable(_why_silent(error)) from error",
    ),
    Fault(
        "the provider's words are cut before they are scrubbed",
        "adapters/vast.py",
        "text = said[:SAID_READ_MAX] if",
        "text = said[:SAID_LENGTH_MAX] if",
    ),
    Fault(
        "a secret is known in one spelling",
        "adapters/redact.py",
        "for spelling in _encoded(text)}",
        "for spelling in ()}",
    ),
    Fault(
        "the shortest secret goes first",
        "adapters/redact.py",
        "key=len, reverse=True",
        "key=len",
    ),
    Fault(
        "a line that cannot be rendered is lost",
        "adapters/sink.py",
        "line = super().format(_unrendered(record, problem))",
        "raise problem",
    ),
    Fault(
        "what nobody caught is printed as it is",
        "adapters/sink.py",
        "    sys.excepthook = _uncaught\n",
        "",
    ),
    Fault(
        "a pass acts on what the watch has shown",
        "controller/reconcile.py",
        """_needs_quorum(seen):
            seen = await self._plan_node(key, reads.now)""",
        """_needs_quorum(seen):
            seen = await self._plan_node(key, self._cache.find)""",
    ),
    Fault(
        "a pass over a job acts on what the watch has shown",
        "controller/reconcile.py",
        "            seen = await self._plan_job(key, reads.now)\n",
        "            seen = await self._plan_job(key, self._cache.find)\n",
    ),
    Fault(
        "a rent is decided on what the watch has shown",
        "controller/reconcile.py",
        """self._cache.read)
                request""",
        """self._cache.find)
                request""",
    ),
    Fault(
        "a status is written on whatever is stored",
        "controller/cache.py",
        "write = self._kube.write_status(kind, stored, status)",
        "found = await self.read(_key(kind, stored)) or stored\n"
        "        write = self._kube.write_status(kind, found, status)",
    ),
    Fault(
        "an older event is news",
        "controller/cache.py",
        "if held is None or _version(held) <= version:\n"
        "            self._hold(key, body)\n"
        "            if gone:",
        "if held is None or version:\n            self._hold(key, body)\n            if gone:",
    ),
    Fault(
        "the deletion of an earlier object takes this one along",
        "controller/cache.py",
        "            self._hold(key, body)\n            if gone:\n                self._drop(key)",
        "            self._hold(key, body)\n        if gone:\n            self._drop(key)",
    ),
    Fault(
        "what a list does not show is forgotten unread",
        "controller/cache.py",
        "is not None:\n                self._doubted.add(key)\n                for one",
        "is not None:\n                self._drop(key)\n                for one",
    ),
    Fault(
        "another version in a list is not read",
        "controller/cache.py",
        "if held is not None and not is_known:",
        "if held is not None and is_known:",
    ),
    Fault(
        "only pods are compared with what is stored",
        "controller/lead.py",
        "in product(WATCHED, served or (None,)):",
        "in product([*WATCHED][:1], served or (None,)):",
    ),
    Fault(
        "a namespace that cannot be read hides those after it",
        "controller/lead.py",
        "in product(WATCHED, served or (None,)):",
        "in product(WATCHED, (None,)):",
    ),
    Fault(
        "what is held of a namespace that cannot be read is doubted",
        "controller/cache.py",
        "if key.kind == kind and namespace in (None, key.namespace)",
        "if key.kind == kind",
    ),
    Fault(
        "an API server that is busy starts the leader again",
        "controller/lead.py",
        "            if namespace in before:",
        "            if not served:",
    ),
    Fault(
        "a fact waits for the figures' turn",
        "core/conditions.py",
        'key not in ("accruedUSD", "asOf")',
        'key not in ("accruedUSD", "asOf", "end")',
    ),
    Fault(
        "a second machine is no news",
        "core/node/news.py",
        "return others or before",
        "return before",
    ),
    Fault(
        "a machine that changes is no news",
        "core/node/news.py",
        "if row is None or row != before.by_number.get(lease.instance_id):",
        "if row is None:",
    ),
    Fault(
        "a running node is looked at only when it is due",
        "core/node/facts.py",
        "max(min(due_in(seen), SILENT_SECONDS if is_silent else pause, pause), 0.05)",
        "max(due_in(seen), 0.05)",
    ),
    Fault(
        "the lock is renewed while the passes stand still",
        "controller/leader_lock.py",
        "renewed = not self._is_stalled() and await self._attempt()",
        "renewed = await self._attempt()",
    ),
    Fault(
        "machines wait like all other nodes",
        "controller/cache.py",
        "return Place(Lane.MACHINES, born)",
        "return Place(Lane.NODES, born)",
    ),
    Fault(
        "no worker is kept for machines",
        "controller/workqueue.py",
        "apart = [(Lane.MACHINES,)] * -(-workers // APART)",
        "apart = [IN_ORDER] * -(-workers // APART)",
    ),
    Fault(
        "no worker looks at jobs first",
        "controller/workqueue.py",
        "jobs_first = [IN_ORDER[::-1]]",
        "jobs_first = [IN_ORDER]",
    ),
    Fault(
        "a namespace keeps its turn",
        "controller/workqueue.py",
        "turns[namespace] = waiting",
        "self._lanes[lane] = {namespace: waiting} | turns",
    ),
    Fault(
        "older objects do not go first",
        "controller/workqueue.py",
        "heapq.heappush(waiting, (born, key))",
        'heapq.heappush(waiting, ("", key))',
    ),
    Fault(
        "an event ends a back-off",
        "controller/workqueue.py",
        "if not_before > now:",
        "if not_before > now + 1e9:",
    ),
    Fault(
        "what fails together is tried again together",
        "controller/workqueue.py",
        "delay *= 1 - ",
        "delay *= 1 - 0 * ",
    ),
    Fault(
        "the passes over a machine back off as long as all others",
        "controller/workqueue.py",
        "return 2.0 if self is Lane.MACHINES else 60.0",
        "return 60.0",
    ),
    Fault(
        "a job that is over gets passes",
        "core/rest.py",
        'return kept if status.get("closed") else min(kept, _open_for(meta, age, limits))',
        "return None",
    ),
    Fault(
        "a changed job rests",
        "core/rest.py",
        'meta.get("generation") != status.get("observedGeneration")',
        'meta.get("generation") < status.get("observedGeneration")',
    ),
    Fault(
        "what holds our finalizer rests",
        "core/rest.py",
        "or FINALIZER in (meta.get",
        "or 0 in (meta.get",
    ),
    Fault(
        "a machine is destroyed before the end of its attempt is stored",
        "controller/reconcile.py",
        "is_decided = node.status == seen.before.status and node.status.end is not None",
        "is_decided = node.status.end is not None",
    ),
    Fault(
        "an end claims that its destroy was asked for",
        "core/node/release.py",
        "status.destroy_asked_at or seen.memory.destroy_asked_at",
        "status.destroy_asked_at or seen.world.now",
    ),
    Fault(
        "a release does not say when its destroy was asked for",
        "core/node/release.py",
        '            "destroy_asked_at": _asked_at(seen),\n',
        "",
    ),
    Fault(
        "a node that is there is created again",
        "core/settling.py",
        "return replace(first, plan=replace(first.plan, effects=()))",
        "return first",
    ),
    Fault(
        "what was decided before the node is not stored",
        "core/settling.py",
        "    job = _with_status(first.observation.job, first.statuses[-1])\n",
        "    job = first.observation.job\n",
    ),
    Fault(
        "the gate's words are lost with whoever created the node",
        "core/job/plan.py",
        "if rent is None or cost.confidence is not None:\n        return cost",
        "if True:\n        return cost",
    ),
    Fault(
        "a pod of another node is told what a driver does",
        "controller/transport.py",
        "may_be_driver(node, caller.name) and is_pod_of(pod, caller.uid, node_uid)",
        "may_be_driver(node, caller.name)",
    ),
    Fault(
        "any pod of a node may become its first driver",
        "core/machine/assignment.py",
        "return is_next and stage_of(",
        "return stage_of(",
    ),
    Fault(
        "beside the recorded driver another may report",
        "core/machine/assignment.py",
        "return is_next and stage_of(node.status) is Stage.AWAITING_POD",
        "return is_next",
    ),
    Fault(
        "a driver that has not reported is recorded",
        "core/node/driver.py",
        "if driver is None and status.rent is None and seen.report is None:",
        "if False:",
    ),
    Fault(
        "a driver that follows another is ready before it reports",
        "core/node/driver.py",
        "if driver is None and status.rent is None and seen.report is None:",
        "if status.rent is None and seen.report is None:",
    ),
    Fault(
        "the name of a driver that was never recorded is used again",
        "core/node/driver.py",
        "was_there = sight is not None and sight.name == name",
        "was_there = False",
    ),
    Fault(
        "the login of a driver that is not recorded yet is not asked for",
        "core/machine/assignment.py",
        "{Stage.AWAITING_POD, Stage.AWAITING_DRIVER, Stage.READY_TO_RENT}",
        "{Stage.AWAITING_DRIVER, Stage.READY_TO_RENT}",
    ),
    Fault(
        "what is known while the market is asked is stored at once",
        "controller/reconcile.py",
        "asks_market = seen.plan.wants_quotes",
        "asks_market = False",
    ),
    Fault(
        "that nothing has moved yet is stored alone",
        "core/node/traffic.py",
        "if one is not None else (0, 0)",
        "if one is not None else (-1, -1)",
    ),
    Fault(
        "the status that the API server gives a job counts as the operator's",
        "controller/reconcile.py",
        "asks_market = plan.wants_quotes and status.observed_generation < 0",
        'asks_market = plan.wants_quotes and not seen.stored.get("status")',
    ),
    Fault(
        "a job is not told of while the market keeps silent",
        "controller/reconcile.py",
        "left = ASKING_SECONDS - (now - self._asking_since.setdefault(key, now))",
        "left = ASKING_SECONDS",
    ),
    Fault(
        "what is known is not stored while a rent has to wait",
        "controller/reconcile.py",
        "            if earlier := planned.settled.statuses[:-1]:",
        "            if earlier := planned.settled.statuses[:0]:",
    ),
    Fault(
        "a job that has charged its attempt goes on with that attempt's node",
        "core/settling.py",
        "if is_charged or len(statuses)",
        "if len(statuses)",
    ),
    Fault(
        "what people are told is taken for words",
        "core/conditions.py",
        """one["type"] == "Ready" and one["reason"] in _TOLD""",
        """one["reason"] in _TOLD and not _TOLD""",
    ),
    Fault(
        "a figure is taken for words, and stored late",
        "core/conditions.py",
        'return {**status, "conditions": flags}',
        'return {"phase": status.get("phase"), "conditions": flags}',
    ),
    Fault(
        "figures are stored before what has ended is destroyed",
        "controller/reconcile.py",
        "if _only_gives_back(seen) and is_decided:\n            # This",
        "if False:\n            # This",
    ),
    Fault(
        "what has ended is read again before it is destroyed",
        "controller/reconcile.py",
        "    return (bool(seen.plan.effects) and not _only_gives_back(seen)) or _says_more(seen)",
        "    return bool(seen.plan.effects) or _says_more(seen)",
    ),
    Fault(
        "figures are stored right before a deadline",
        "core/node/upkeep.py",
        "if seen.node.status.rent is None or 0 < due_in(seen) < QUIET_SECONDS:",
        "if seen.node.status.rent is None:",
    ),
    Fault(
        "what the watch has not shown is gone",
        "controller/cache.py",
        "if held is None or key in self._doubted or key in self._over:\n"
        "            return await self.read(key)",
        "if held is None or key in self._doubted or key in self._over:\n            return held",
    ),
    Fault(
        "a write that failed has not arrived",
        "controller/cache.py",
        "self._doubted.add(key)\n            raise",
        "raise",
    ),
    Fault(
        "what somebody else wrote before us is taken for ours",
        "controller/cache.py",
        "if version in self._unshown.get(key, ()):",
        "if version <= max(self._unshown.get(key, ()), default=0):",
    ),
    Fault(
        "what is written while we write is not looked at",
        "controller/cache.py",
        "is_news = on is None or bool(shown - ours)",
        "is_news = on is None",
    ),
    Fault(
        "a node's write does not ask for its job's pass",
        "controller/cache.py",
        "if is_news if concerned == key else version not in shown:",
        "if is_news:",
    ),
    Fault(
        "a job that is over waits for an event to be let go",
        "core/job/end.py",
        "message=words, requeue_seconds=0)",
        "message=words)",
    ),
    Fault(
        "what was deleted unseen is held for ever",
        "controller/cache.py",
        "for key in unlisted:",
        "for key in unlisted - unlisted:",
    ),
    Fault(
        "what was read once is believed for ever",
        "controller/readings.py",
        "if isinstance(last, model) and (last.metadata.uid, last.metadata.resource_version) == (\n"
        '            meta["uid"],\n            meta["resourceVersion"],\n        ):',
        "if isinstance(last, model) and last.metadata.uid == meta['uid']:",
    ),
    Fault(
        "a dollar sign is the kubelet's",
        "core/machine/driver_pod.py",
        'return value.replace("$", "$$")',
        'return value.replace("$(", "$$(")',
    ),
    Fault(
        "a name that the shell uses is assigned",
        "driver/supervisor.py",
        "any(fnmatchcase(name, pattern) for pattern in (*SHELLS_OWN, *_ENTERS_OWN)):",
        "not name:",
    ),
    Fault(
        "the workload's files are for root alone",
        "driver/supervisor.py",
        "\numask 022\n",
        "\n",
    ),
    Fault(
        "a workload has the session's environment",
        "driver/supervisor.py",
        "env -i sh enter",
        "sh enter",
    ),
    Fault(
        "a program with an equals sign in its path is a variable",
        "driver/supervisor.py",
        '["nice -n 0"] if "=" in command[0] else []',
        '[""][1:]',
    ),
    Fault(
        "what a workload leaves running goes on",
        "driver/supervisor.py",
        'kill -KILL "${p%/environ}"',
        ":",
    ),
    Fault(
        "a text that was cut off starts a workload",
        "driver/supervisor.py",
        """[ "$(tail -n 1 "$dir/work")" = '@WHOLE@' ]""",
        ":",
    ),
    Fault(
        "a workload gets the key of its machine",
        "driver/supervisor.py",
        'PROVIDERS_OWN = ("CONTAINER_API_KEY", ',
        "PROVIDERS_OWN = (",
    ),
    Fault(
        "a server that allows few sessions is asked in vain",
        "adapters/ssh.py",
        "if len(self._lines) < LINES_MAX and",
        "if not self._lines and",
    ),
    Fault(
        "backslashes are left to root's shell",
        "adapters/ssh.py",
        'rb"[^A-Za-z0-9 _./:=,@-]"',
        'rb"[^A-Za-z0-9 _./:=,@\\\\-]"',
    ),
    Fault(
        "another job's log is taken for this one's",
        "driver/output.py",
        "if not ours.exists():",
        "if False:",
    ),
    Fault(
        "a workload that removes our files is started again",
        "driver/work.py",
        'if look.state == "absent" and run.seconds is not None:',
        "if False:",
    ),
    Fault(
        "what start-up files print is an answer",
        "adapters/ssh.py",
        "self._held = self._held.partition(mark)[2]",
        "pass",
    ),
    Fault(
        "one broken session condemns an image",
        "driver/work.py",
        "BROKEN_SESSIONS_MAX = 3",
        "BROKEN_SESSIONS_MAX = 1",
    ),
    Fault(
        "a slow machine makes its image unusable",
        "driver/work.py",
        "is_slow = isinstance(error, SessionHangs) and not self._is_unproven",
        "is_slow = False",
    ),
    Fault(
        "a mute line is taken for start-up files that hang",
        "adapters/ssh.py",
        "if not await self._answers():",
        "if False:",
    ),
    Fault(
        "a host without a network makes its image unusable",
        "core/market/images.py",
        "if any(passing.search(said) for passing in (_DISK_FULL, _HOSTS_OWN, _PASSING)):",
        "if False:",
    ),
    Fault(
        "an installer that goes on is not waited for",
        "core/node/ends.py",
        "world.monotonic - log.since < world.limits.installer_silence_seconds",
        "False",
    ),
    Fault(
        "a node's key is given for a machine without its mark",
        "core/node/run.py",
        "or lease.mark != str(seen.mark):",
        "or False:",
    ),
    Fault(
        "the provider is asked to take a key in each pass",
        "core/node/run.py",
        "seen.world.monotonic - memory.key_tried_at < pause",
        "False",
    ),
    Fault(
        "a job's environment is no secret",
        "driver/main.py",
        "if len(value) >= SECRET_CHARACTERS_MIN:",
        "if len(value) >= 10_000:",
    ),
    # --- The API server's answers -------------------------------------------------------------
    Fault(
        "anybody's 404 is an object's end",
        "adapters/kube.py",
        """        case 404 if body.get("kind") != "Status":""",
        """        case 404 if body.get("kind") == "Nothing":""",
    ),
    Fault(
        "a netrc says who we are",
        "adapters/kube.py",
        """client_session_kwargs={"trust_env": False}""",
        """client_session_kwargs={}""",
    ),
    Fault(
        "a netrc says who asks the provider",
        "adapters/egress.py",
        "trust_env=False",
        "trust_env=True",
    ),
    Fault(
        "the proxy is passed by",
        "adapters/egress.py",
        "proxy=self.proxy,",
        "proxy=None,",
    ),
    Fault(
        "whoever says so is the provider",
        "adapters/egress.py",
        "ssl=self.trusted or True,",
        "ssl=self.trusted or False,",
    ),
    Fault(
        "the proxy is asked for a log in our own network",
        "adapters/log_store.py",
        "if self._egress.proxy and not may_be_near and not _may_be_far(str(place.raw_host)):",
        "if False:",
    ),
    Fault(
        "the controller is not told of the proxy",
        "controller/provider.py",
        "return VastClient(url, key, clock, door, settings.egress())",
        "return VastClient(url, key, clock, door)",
    ),
    Fault(
        "drivers are sent to where a leader was in another address family",
        "controller/address.py",
        "        await _publish(kube, settings, service, version, name, addresses.get(version))",
        """        if version in addresses:
            await _publish(kube, settings, service, version, name, addresses[version])""",
    ),
    Fault(
        "the controller is reached by IPv4 alone",
        "controller/settings.py",
        'listen_host: str = ""',
        'listen_host: str = "0.0.0.0"',
    ),
    Fault(
        "a proxy may read the key and repeat a rent",
        "controller/settings.py",
        """if not is_address(own.get("provider_url", "https://x"), "https"):""",
        "if False:",
    ),
    Fault(
        "a netrc says who asks for an estimate",
        "adapters/controller.py",
        "ClientTimeout(total=ANSWER_SECONDS), trust_env=False",
        "ClientTimeout(total=ANSWER_SECONDS), trust_env=True",
    ),
    Fault(
        "any answer is a list",
        "adapters/kube.py",
        """if answer.get("kind") != f"{kind}List" or not isinstance(items, list):""",
        """if not isinstance(items, list):""",
    ),
    # --- Estimates ----------------------------------------------------------------------------
    Fault(
        "an estimate forgets that nothing can be rented",
        "core/cost/forecast.py",
        "why = world.not_ready or _unseen(world)",
        "why = _unseen(world)",
    ),
    Fault(
        "an estimate knows no caps",
        "core/observation.py",
        "leased=self.leased,",
        "leased=Leased(),",
    ),
    # --- Admission ----------------------------------------------------------------------------
    Fault(
        "what the webhook refuses is not asked again",
        "core/job/plan.py",
        "    _refuse_spec,  # The webhook",
        "    # The webhook",
    ),
    Fault(
        "a certificate is used before it is trusted",
        "core/certificates.py",
        "if coming.authority in trusted and now >= coming.made_at + overlap:",
        "if now >= coming.made_at:",
    ),
    Fault(
        "the former authority is forgotten",
        "core/certificates.py",
        "former_authority=held.used.authority",
        'former_authority=""',
    ),
    Fault(
        "drivers are not told of the next authorities",
        "controller/transport.py",
        '"authorities": authorities()}',
        '"authorities": ""}',
    ),
    Fault(
        "any pod is a node's driver",
        "controller/transport.py",
        "return recorded is not None and recorded.pod_uid == pod.uid",
        "return recorded is not None",
    ),
    Fault(
        "a token outlives its pod",
        "controller/driver_tokens.py",
        "< known.until and self._is_there(known.pod)",
        "< known.until",
    ),
    Fault(
        "a token is remembered whose pod no watch shows",
        "controller/driver_tokens.py",
        "if pod is not None and self._is_there(pod):",
        "if pod is not None:",
    ),
    Fault(
        "a token outlives its end",
        "controller/driver_tokens.py",
        "self._clock.monotonic() < known.until and",
        "True and",
    ),
    Fault(
        "a clock that is behind lengthens a token's life",
        "controller/driver_tokens.py",
        "return min(claims.exp - self._clock.now().timestamp(), claims.exp - claims.iat)",
        "return claims.exp - self._clock.now().timestamp()",
    ),
    Fault(
        "a pod has any number of known tokens",
        "controller/driver_tokens.py",
        "        self.forget(pod.uid)\n",
        "",
    ),
    Fault(
        "what is known of a pod is kept for ever",
        "controller/cache.py",
        """            self._dropped(uid)\n""",
        "",
    ),
    Fault(
        "a pod that no list shows is there",
        "controller/cache.py",
        """if held is None or key in self._doubted or held["metadata"]["uid"] != uid:""",
        """if held is None or held["metadata"]["uid"] != uid:""",
    ),
    Fault(
        "a pod that is being deleted is there",
        "controller/cache.py",
        """return held["metadata"].get("deletionTimestamp") is None""",
        """return True""",
    ),
    Fault(
        "a stop waits for the next report",
        "controller/cache.py",
        "            self._changed(uid)\n",
        "            pass\n",
    ),
    Fault(
        "a deadline waits for the next report",
        "controller/cache.py",
        "            self._changed(node)\n",
        "            pass\n",
    ),
    Fault(
        "an answer is kept back from who has not got it",
        "controller/transport.py",
        "return is_newest and digest_of_answer(bytes(answer.body)) == report.taken",
        "return is_newest",
    ),
    Fault(
        "a stop is reported seldom",
        "controller/transport.py",
        "if report.taken is None or told.instruction is Instruction.STOP:",
        "if report.taken is None:",
    ),
    Fault(
        "an answer is kept back for ever",
        "controller/holds.py",
        "async with asyncio.timeout_at(until):",
        "async with asyncio.timeout(30):",
    ),
    Fault(
        "who leads no more keeps answers back",
        "controller/holds.py",
        "        self._is_closed = True\n",
        "",
    ),
    Fault(
        "news of a driver waits for the answer",
        "driver/reporting.py",
        "> 0 and self._report().news == report.news:",
        "> 0:",
    ),
    Fault(
        "a controller with another name is believed",
        "adapters/transport.py",
        "    context.minimum_version = ssl.TLSVersion.TLSv1_3\n",
        "    context.check_hostname = False\n",
    ),
    Fault(
        "new authorities are forgotten at a restart",
        "driver/reporting.py",
        "            put(self._settings.state_dir / AUTHORITIES, told.encode())\n",
        "",
    ),
    Fault(
        "a login is asked for after the rent",
        "core/machine/assignment.py",
        "is not None and stage in _BEFORE_RENT",
        "is not None",
    ),
    Fault(
        "a login is kept after the rent",
        "controller/reconcile.py",
        "if seen.after.rent is not None or seen.after.end is not None:",
        "if seen.after.end is not None:",
    ),
    Fault(
        "a private image is rented for without its login",
        "core/node/rent.py",
        "if job.spec.image_pull_secret is not None and not seen.has_login:",
        "if False:",
    ),
    Fault(
        "another path's credentials are handed out",
        "driver/registry.py",
        "        and path[: len(key_path)] == key_path\n",
        "",
    ),
    Fault(
        "any text is an image",
        "core/spec_faults.py",
        "if IMAGE.fullmatch(spec.image) is None:",
        "if IMAGE.match(spec.image) is None:",
    ),
    Fault(
        "a finished job goes unasked",
        "core/job/plan.py",
        "if kept is None or status.completion_time is None:",
        "kept = kept or 0\n    if status.completion_time is None:",
    ),
    Fault(
        "a silent driver is not replaced",
        "core/node/driver.py",
        "if silence >= limits.driver_replacement_seconds and not pod.is_being_deleted:",
        "if silence < 0:",
    ),
    Fault(
        "another driver pod is taken for the one that was seen before",
        "core/observation.py",
        "if same is None or same.uid != pod.uid:",
        "if same is None:",
    ),
    Fault(
        "a driver that is being deleted is not given its grace",
        "core/node/driver.py",
        "    if leaving < pod.grace_seconds:",
        "    if leaving < 0:",
    ),
    Fault(
        "a driver whose node died has no successor",
        "core/node/driver.py",
        "    if leaving < pod.grace_seconds:",
        "    if leaving >= 0:",
    ),
    Fault(
        "the pod under an earlier name is the driver",
        "core/node/driver.py",
        "seen.pod is not None and seen.pod.name == name else None",
        "seen.pod is not None else None",
    ),
    Fault(
        "a driver that does not start ends an attempt that costs nothing",
        "core/node/driver.py",
        """    if status.rent is not None:
        patience""",
        """    if waited >= 0:
        patience""",
    ),
    Fault(
        "pods that cannot be made end an attempt that costs nothing",
        "core/node/driver.py",
        "    if is_rented and missing is not None and",
        "    if missing is not None and",
    ),
    Fault(
        "driver pods that come to nothing follow each other at once",
        "core/node/driver.py",
        "    if earlier <= 0 or sight is None:",
        "    if earlier <= 10**9 or sight is None:",
    ),
    Fault(
        "a machine without a driver is kept as long as its pods come and go",
        "core/node/driver.py",
        "    if is_rented and seen.unheard_seconds >= limits.heartbeat_stale_seconds:",
        "    if is_rented and seen.unheard_seconds < 0:",
    ),
    Fault(
        "a machine heeds a driver that was replaced",
        "driver/supervisor.py",
        'if [ "$heard" -gt @DRIVER@ ]; then echo replaced; exit 0; fi',
        ":",
    ),
    Fault(
        "a driver that was replaced works on",
        "driver/reporting.py",
        "                if isinstance(error, _Replaced):",
        "                if error is None:",
    ),
    Fault(
        "what is reserved stays so while a driver is waited for",
        "core/node/driver.py",
        "    return seen.world.monotonic - since >= seen.world.limits.driver_pending_seconds",
        "    return seen.world.monotonic - since < 0",
    ),
    Fault(
        "what is reserved anew may be taken back by a late pass",
        "core/node/rent.py",
        "    if recorded > held:",
        "    if recorded < 0:",
    ),
    Fault(
        "a job records less for its node by what its cache shows",
        "controller/reconcile.py",
        "        if seen is not None and (seen.plan.effects or _reserves_other(seen)):",
        "        if seen is not None and seen.plan.effects:",
    ),
    Fault(
        "what was given back was never reserved",
        "core/node/charge.py",
        "    return max(node.reserved_usd, node.spec.reserved_usd, key=parse_usd)",
        "    return node.reserved_usd",
    ),
    Fault(
        "a job does not wait for its queue",
        "core/queue.py",
        "return kueue and bool(queue_of(job)) and job.status.admitted_by != workload_name(job)",
        "return False",
    ),
    Fault(
        "a Workload admits a job that asks for more by now",
        "core/queue.py",
        'or workload["metadata"]["name"] != name or',
        "or",
    ),
    Fault(
        "a job keeps its machine when its queue evicts it",
        "core/queue.py",
        'and not any(_holds(workload, one) for one in ("Evicted", "Finished"))',
        "and True",
    ),
    Fault(
        "a job whose Workload is gone may run on",
        "core/queue.py",
        "            return Step.WITHDRAW\n        # What it had",
        "            return None\n        # What it had",
    ),
    Fault(
        "a Workload that is deleted takes its quota with it while the machine is paid for",
        "core/queue.py",
        "Step.LET_GO if owes_nothing and is_held(workload) else None",
        "Step.LET_GO if is_held(workload) else None",
    ),
    Fault(
        "a job runs before its Workload is held",
        "core/queue.py",
        "            return let_go or Step.HOLD\n",
        "            pass\n",
    ),
    Fault(
        "a Workload that asks for less admits its job",
        "core/queue.py",
        "if _is_admitted(workload) and not fault(job, workload):",
        "if _is_admitted(workload):",
    ),
    Fault(
        "a queue's quota is given back while the machine is paid for",
        "core/queue.py",
        '_holds(workload, "QuotaReserved") and owes_nothing:',
        '_holds(workload, "QuotaReserved"):',
    ),
    Fault(
        "a queue hears of the end before the machine is gone",
        "core/queue.py",
        "return Step.FINISH if owes_nothing and not is_over(workload) else let_go",
        "return Step.FINISH if not is_over(workload) else let_go",
    ),
    Fault(
        "a running machine does not heed its queue",
        "core/node/plan.py",
        "observation = replace(observation, job=queued)",
        "pass",
    ),
    Fault(
        "what is refused is tried in each pass",
        "core/refusals.py",
        "effects=tuple(one for one in plan.effects if type(one) not in waits),",
        "effects=plan.effects,",
    ),
    Fault(
        "the pauses after refusals begin anew each time",
        "core/refusals.py",
        "tries=before.tries + 1,",
        "tries=1,",
    ),
    Fault(
        "the pauses after refusals have no end",
        "core/refusals.py",
        "wait = min(FIRST_SECONDS * 2 ** min(before.tries, 16), LONGEST_SECONDS)",
        "wait = FIRST_SECONDS * 2 ** min(before.tries, 16)",
    ),
    Fault(
        "what is refused is not told",
        "core/refusals.py",
        "refused=told(refusals, wanted, now),",
        'refused="",',
    ),
    Fault(
        "prices are asked for while no node can be made",
        "core/job/plan.py",
        "if left := max(seconds_to_wait(seen.refusals, one, world.monotonic) for one in needed):",
        "if left := 0.0:",
    ),
    Fault(
        "a refusal is told in each pass anew",
        "controller/reconcile.py",
        "if is_change and plan.refused and not tells_of_refusal(status.conditions):",
        "if plan.refused:",
    ),
    Fault(
        "the node of an earlier job is deleted before it is released",
        "core/job/plan.py",
        "    if is_former and node.status.released_at is not None and node.status.end is not None:",
        "    if is_former:",
    ),
    Fault(
        "the time of a suspension counts as waiting",
        "core/job/pending.py",
        "    if job.spec.suspend and after.since is not None:",
        "    if after.since is None:",
    ),
    Fault(
        "a job that has begun once may be too late again",
        "core/job/pending.py",
        "    return not is_over and job.status.start_time is None",
        "    return not is_over",
    ),
    Fault(
        "a machine that boots outlasts pendingDeadlineSeconds",
        "core/node/deadlines.py",
        "    if seen.job is None or pending_seconds_left(seen) > 0:",
        "    if seen.job is None or pending_seconds_left(seen) > -(10**9):",
    ),
    Fault(
        "a workload that a new leader has not heard of is too late",
        "core/node/facts.py",
        "    if report is None and seen.stage.may_run:",
        "    if report is None and seen.stage.is_contradiction:",
    ),
    Fault(
        "a new leader waits for a driver for ever",
        "core/node/facts.py",
        "        left = max(left, seen.world.limits.driver_replacement_seconds - watched)",
        "        left = max(left, seen.world.limits.driver_replacement_seconds)",
    ),
    Fault(
        "a workload that has just begun is too late",
        "core/node/facts.py",
        "    if seen.job is None or runs or status.interruptions is not None:",
        "    if seen.job is None or status.interruptions is not None:",
    ),
    Fault(
        "a job that waited too long is over before its attempt",
        "core/job/plan.py",
        "    if pending_seconds_left(job, seen.world.now) > 0 or _is_own(seen, seen.node):",
        "    if pending_seconds_left(job, seen.world.now) > 0:",
    ),
    Fault(
        "nobody looks when a job has waited too long",
        "core/job/plan.py",
        "if 0 < seconds < again else plan",
        "if 0 < seconds < 0 else plan",
    ),
    Fault(
        "a whole checkpoint is changed before it is moved",
        "driver/checkpoint.py",
        """            if (self._own / "whole").exists():
                self._move_into_place()
            for""",
        """            for""",
    ),
    Fault(
        "a workload is taken for killed when its driver notices",
        "driver/checkpoint.py",
        "at = listing.now if at is None else at",
        "at = listing.now",
    ),
    Fault(
        "an interface that is gone lets the others count twice",
        "core/machine/start_script.py",
        "  was=$now\n",
        '  [ "${#now}" -lt "${#was}" ] && was= || was=$now\n',
    ),
    # --- Budgets ------------------------------------------------------------------------------
    Fault(
        "a budget counts only what is spent",
        "core/budget/ledger.py",
        "    if more > ledger.left_microusd:",
        "    if more > ledger.limit_microusd - ledger.spent_microusd:",
    ),
    Fault(
        "what is reserved again counts anew",
        "core/budget/ledger.py",
        """    more = claim.microusd - (before.claim.microusd if before else 0)
    if more <= 0""",
        """    more = claim.microusd
    if more <= 0""",
    ),
    Fault(
        "to reserve again lowers what is held",
        "core/budget/ledger.py",
        "    if more <= 0 and before is not None:",
        "    if more == 0 and before is not None:",
    ),
    Fault(
        "a full budget takes one more",
        "core/budget/ledger.py",
        "len(ledger.held) >= RESERVATIONS_MAX:",
        "len(ledger.held) > RESERVATIONS_MAX:",
    ),
    Fault(
        "shrinking raises what is held",
        "core/budget/ledger.py",
        "before is None or before.claim.microusd <= microusd:",
        "before is None:",
    ),
    Fault(
        "an attempt is charged each time",
        "core/budget/ledger.py",
        """    if node_uid not in ledger.held:
        return ledger
    held""",
        "    held",
    ),
    Fault(
        "a charge is no more than was reserved",
        "core/budget/ledger.py",
        "microusd=present.microusd + charged_microusd)",
        "microusd=present.microusd + min(charged_microusd, ledger.held[node_uid].claim.microusd))",
    ),
    Fault(
        "a new period forgets what runs",
        "core/budget/ledger.py",
        "ledger = replace(ledger, history=history)",
        "ledger = replace(ledger, history=history, held={})",
    ),
    Fault(
        "a new period has spent what the last one had",
        "core/budget/ledger.py",
        "new = Spent(ledger.rule.at(now), 0)",
        "new = Spent(ledger.rule.at(now), present.microusd)",
    ),
    Fault(
        "a clock that goes back opens a period again",
        "core/budget/ledger.py",
        "    if now >= present.span.end:",
        "    if ledger.rule.at(now) != present.span:",
    ),
    Fault(
        "a window forgets what is charged",
        "core/budget/ledger.py",
        "if ledger.rule.window is not None and charged_microusd:",
        "if ledger.rule.window is None:",
    ),
    Fault(
        "a clock that goes back charges a part that is over",
        "core/budget/ledger.py",
        "start = max(ledger.rule.slice_start(now), last[0])",
        "start = ledger.rule.slice_start(now)",
    ),
    Fault(
        "the history of a budget has no end",
        "core/budget/ledger.py",
        "if one.span.end > oldest)",
        "if one.span.end > oldest - 9 * KEPT)",
    ),
    Fault(
        "a budget that nobody has opened is empty",
        "core/budget/ledger.py",
        '        raise Unusable("the operator has not counted yet what is under way")',
        "        return opened(budget, (), budget.metadata.creation_timestamp)",
    ),
    Fault(
        "a reservation that was lost is free money",
        "core/budget/ledger.py",
        "if told != [ledger.spent_microusd, ledger.reserved_microusd]:",
        "if told[0] != ledger.spent_microusd:",
    ),
    Fault(
        "spend that was lost is free money",
        "core/budget/ledger.py",
        "if told != [ledger.spent_microusd, ledger.reserved_microusd]:",
        "if told[1] != ledger.reserved_microusd:",
    ),
    Fault(
        "a budget opens without what it has no room for",
        "core/budget/ledger.py",
        "    if len(held) > RESERVATIONS_MAX:",
        "    if len(held) > RESERVATIONS_MAX + 1:",
    ),
    Fault(
        "spend leaves a window early",
        "core/budget/period.py",
        "return slice_start + self.slice + self.window",
        "return slice_start + self.window",
    ),
    Fault(
        "each day has 24 hours",
        "core/budget/period.py",
        "return Span(self._start(first), self._start(following))",
        "return Span(self._start(first), self._start(first) + (following - first))",
    ),
    Fault(
        "a date that comes back opens its day again",
        "core/budget/period.py",
        """        while self._start(first) > moment:
            first = _first_day(self.period, first - _DAY)
        while self._start(following := _next_first(self.period, first)) <= moment:
            first = following
""",
        """        following = _next_first(self.period, first)
""",
    ),
    Fault(
        "a budget that cannot be read is passed over",
        "core/budget/cover.py",
        """            refusals.append(Rejected(Reason.BUDGET_UNUSABLE, words))
            continue""",
        """            continue""",
    ),
    Fault(
        "a budget that cannot be read covers no job",
        "core/budget/cover.py",
        "return Book(name=name, problem=str(error))",
        'return Book(name=name, selector=LabelSelector(match_labels={"": ""}), problem=str(error))',
    ),
    Fault(
        "one of several budgets is enough",
        "core/budget/cover.py",
        "    if not refusals:",
        "    if changed or not refusals:",
    ),
    Fault(
        "a job that no budget covers needs none",
        "core/budget/cover.py",
        "    if not covering and is_required:",
        "    if covering and is_required:",
    ),
    Fault(
        "one label of a selector is enough",
        "core/budget/cover.py",
        "return all(labels.get(key) == value for key, value in wanted) and all(",
        "return (not wanted or any(labels.get(key) == value for key, value in wanted)) and all(",
    ),
    Fault(
        "a label that is missing is in no list",
        "core/budget/cover.py",
        "return labels.get(one.key) not in one.values",
        "return one.key in labels and labels[one.key] not in one.values",
    ),
    Fault(
        "an entry that is missing grows",
        "core/budget/cover.py",
        "        if not holds and covers(book.selector, labels):",
        "        if not holds and book.ledger is None:",
    ),
    Fault(
        "a budget that holds it need not hold more",
        "core/budget/cover.py",
        """        if holds:
            concerned.append(book)""",
        """        if holds and covers(book.selector, labels):
            concerned.append(book)""",
    ),
    Fault(
        "a new budget forgets what lost its node",
        "core/budget/cover.py",
        "        if status.node_uid is None or status.node_uid in stored:",
        "        if status.node_uid is None or status.node_uid not in stored:",
    ),
    Fault(
        "a new budget forgets what lost its job",
        "core/budget/cover.py",
        "if is_over(node) or not (job is None or covers(selector, job.metadata.labels)):",
        "if is_over(node) or job is None or not covers(selector, job.metadata.labels):",
    ),
    Fault(
        "a node says more while its budget holds more",
        "core/budget/cover.py",
        "if held is not None and held.claim.microusd != said:",
        "if held is not None and held.claim.microusd < said:",
    ),
    Fault(
        "a machine is rented before its budgets hold it",
        "core/node/rent.py",
        "    if (unheld := _await_budgets(seen, job)) is not None:",
        "    if (unheld := _await_budgets(seen, job)) is not None and unheld.wants_budgets:",
    ),
    Fault(
        "a node goes before its budgets are charged",
        "core/node/release.py",
        "    if holds and settled and not is_held and not wants_budgets:",
        "    if holds and settled and not wants_budgets:",
    ),
    Fault(
        "a node that is over spins until its budgets are read",
        "core/node/release.py",
        "again_seconds = max(min(again), 1.0)",
        "again_seconds = min(again)",
    ),
    Fault(
        "a raised ceiling spins until the budgets are read",
        "core/node/extension.py",
        "return replace(looking, requeue_seconds=1.0, wants_budgets=True)",
        "return replace(looking, wants_budgets=True)",
    ),
    Fault(
        "a node goes before its budgets are read",
        "core/node/release.py",
        "    if holds and settled and not is_held and not wants_budgets:",
        "    if holds and settled and not is_held:",
    ),
    Fault(
        "a budget is overwritten whatever has changed",
        "controller/budget_book.py",
        "await self._kube.write_status(KIND, body, status)",
        """await self._kube.write_status(
            KIND,
            await self._kube.get(KIND, *(body["metadata"][one] for one in ("namespace", "name"))),
            status,
        )""",
    ),
    Fault(
        "a rent goes by the budgets that were seen last",
        "controller/reconcile.py",
        "return await self._budgets.read(namespace)",
        "return self._budgets.seen.of(namespace)",
    ),
    Fault(
        "a job records a node that its budgets do not hold",
        "core/job/plan.py",
        "    if (waiting := await_reservation(seen, node)) is not None:",
        "    if (waiting := await_reservation(seen, node)) is not None and not waiting.effects:",
    ),
    Fault(
        "more is recorded than the budgets hold",
        "core/job/reserving.py",
        "        return Growth(held, requeue_seconds=seconds_to_look(",
        "        return Growth(node.reserved_usd, requeue_seconds=seconds_to_look(",
    ),
    Fault(
        "a raised ceiling is asked for without money",
        "core/node/extension.py",
        "    if isinstance(answer, Rejected) or not may_say_more(seen.budgets, seen.node):",
        "    if not may_say_more(seen.budgets, seen.node):",
    ),
    Fault(
        "a node reserves anew while a budget holds the old",
        "core/node/rent.py",
        """    if may_say_more(seen.budgets, node):
        return None""",
        """    if seen.budgets is not None:
        return None""",
    ),
    Fault(
        "one budget keeps what another has no money for",
        "core/node/driver.py",
        "    if not (_has_waited_long(seen) or _is_rejected(seen)):",
        "    if not _has_waited_long(seen):",
    ),
    Fault(
        "less is held than the fuse allows",
        "core/budget/cover.py",
        "        microusd=max(said, fuse),",
        "        microusd=said,",
    ),
    Fault(
        "budgets that were not read hold nothing back",
        "core/budget/cover.py",
        "        if self.known is not None and namespace not in self.known:",
        "        if self.known is None:",
    ),
    Fault(
        "all jobs that look at once get a node",
        "core/job/reserving.py",
        "(books := world.budgets.for_another(job.metadata.namespace, world.now)) is None:",
        "(books := world.budgets.of(job.metadata.namespace)) is None:",
    ),
    Fault(
        "a job without money asks the market all the same",
        "core/job/plan.py",
        "    if reserved > 0 and (unaffordable",
        "    if not reserved and (unaffordable",
    ),
    Fault(
        "what nobody sees any more stays reserved",
        "controller/budget_book.py",
        "if node is None or is_over(node) or claim_of(node).microusd < held.claim.microusd:",
        "if node is not None and is_over(node):",
    ),
    Fault(
        "a period of a budget never ends by itself",
        "controller/budget_book.py",
        "        if due or at(ledger, self._now()) != ledger or not seen.is_told:",
        "        if due or not seen.is_told:",
    ),
    Fault(
        "a node says more while a budget cannot be read",
        "core/budget/cover.py",
        """        if book.ledger is None:
            return False""",
        """        if book.ledger is None:
            continue""",
    ),
    Fault(
        "what never fits is told to wait",
        "core/budget/cover.py",
        "    if claim.microusd > limit:",
        "    if claim.microusd > limit + ledger.spent_microusd + limit:",
    ),
    Fault(
        "a job looks again before all its budgets have money",
        "core/budget/cover.py",
        "else max(one for one in moments if one is not None)",
        "else min(one for one in moments if one is not None)",
    ),
    Fault(
        "a node is settled before its machine is gone",
        "core/budget/ending.py",
        "return node.status.released_at is not None and node.status.end is not None",
        "return node.status.end is not None",
    ),
    Fault(
        "a cost that is not final is settled",
        "core/budget/ending.py",
        "return node.status.released_at is not None and node.status.end is not None",
        "return node.status.released_at is not None",
    ),
    Fault(
        "a node that is gone has cost nothing",
        "core/budget/ending.py",
        "    return 0 if job.status.attempt < claim.attempt else claim.microusd",
        "    return 0",
    ),
    Fault(
        "a node whose job is gone has cost nothing",
        "core/budget/ending.py",
        """    if job is None or job.metadata.uid != claim.job_uid:
        return claim.microusd""",
        """    if job is None or job.metadata.uid != claim.job_uid:
        return 0""",
    ),
    Fault(
        "a job of the same name answers for another",
        "core/budget/ending.py",
        "    if job is None or job.metadata.uid != claim.job_uid:",
        "    if job is None:",
    ),
    Fault(
        "a cost that was lost is none",
        "core/budget/ending.py",
        "status.not_rented is not None else held.claim.microusd",
        "status.not_rented is not None else 0",
    ),
    Fault(
        "a node of the same name answers for another",
        "core/budget/ending.py",
        "    if node is not None and node.metadata.uid == claim.node_uid:",
        "    if node is not None:",
    ),
    Fault(
        "what is reserved frees when the period ends",
        "core/budget/outlook.py",
        "span.end, ledger.spent_microusd",
        "span.end, ledger.spent_microusd + ledger.reserved_microusd",
    ),
    Fault(
        "what is under way does not run out",
        "core/budget/outlook.py",
        "ledger.limit_microusd - ledger.spent_microusd - accrued_microusd)",
        "ledger.limit_microusd - ledger.spent_microusd)",
    ),
)


class NotRun(RuntimeError):
    """The tests did not run to an end that says anything."""


def copied(folder: Path) -> Path:
    """Copies what the tests need and returns the copy's root."""
    copy = folder / "tree"
    for name in NEEDED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, copy / name)
    return copy


def first_failure(copy: Path, stages: Iterable[tuple[str, ...]]) -> str | None:
    """Runs the tests of a copy until one fails and returns its name; None = all pass."""
    # The copy must take precedence over the installed package.
    environment = os.environ | {"PYTHONPATH": str(copy / "operator")}
    options = ["-x", "-q", "-rf", "--no-header", "-p", "no:cacheprovider", "-p", "no:randomly"]
    # With a fault, a test may wait for ever; then it has caught the fault as well.
    options += [f"--timeout={TEST_SECONDS_MAX}", f"--basetemp={copy.parent}/t"]
    for stage in stages:
        # These wait for the processes that they have started.
        waits = [f"--numprocesses={WAITING}"] if stage[0].startswith("tests/contract") else []
        done = subprocess.run(
            [sys.executable, "-m", "pytest", *stage, *options, *waits],
            cwd=copy,
            env=environment,
            capture_output=True,
            text=True,
        )
        found = re.search(r"^FAILED (\S+?\.py::.+?)( - .*)?$", done.stdout, re.MULTILINE)
        # Several processes that stop at a failure call themselves interrupted.
        if done.returncode in (1, 2) and found:
            return found[1]
        if done.returncode != 0:
            raise NotRun(f"{' '.join(stage)}:\n{done.stdout}{done.stderr}")
    return None


def known() -> dict[str, str]:
    """Returns the test that caught each fault, by the fault's name."""
    if not CAUGHT.exists():
        return {}
    lines = CAUGHT.read_text().splitlines()
    return dict(line.split("\t") for line in lines if not line.startswith("#"))


def keep(caught_by: dict[str, str]) -> None:
    """Writes what `known` reads; faults that are no longer in the table are dropped."""
    lines = ["# Written by hack/mutate: each fault, and the test that caught it."]
    lines += [f"{one.name}\t{caught_by[one.name]}" for one in FAULTS if one.name in caught_by]
    CAUGHT.write_text("\n".join(lines) + "\n")


def alone(tests: Iterable[str]) -> tuple[str, ...]:
    """Returns the stage that runs just these tests, all of one part."""
    chosen = tuple(tests)
    # A simulation's cases are named after the points that its options choose.
    return (*chosen, *SIMULATION[1:4]) if chosen[0].startswith(SIMULATION[0]) else chosen


def write(path: Path, source: str) -> None:
    """Writes a module, and drops what Python compiled of it: two texts of one length and second."""
    path.write_text(source)
    for compiled in (path.parent / "__pycache__").glob(f"{path.stem}.*.pyc"):
        compiled.unlink()


def stages_for(fault: Fault) -> Iterator[tuple[str, ...]]:
    """Returns what to run to catch a fault, the most probable first."""
    if fault.file in NEAREST:
        yield tuple(NEAREST[fault.file].split())
    if fault.file.startswith("controller/"):
        yield SIMULATION
    yield from STAGES


def caught(fault: Fault, copy: Path, before: str | None) -> str | None:
    """Plants a fault in a copy and returns the first test that fails; None = all pass.

    `before` is the test that caught it the last time. The copy is left as it was.
    """
    path = copy / "operator/gpujob" / fault.file
    source = path.read_text()
    write(path, fault.planted(source))
    try:
        if before is not None:
            # A test that was renamed or is gone cannot be run: that is no answer.
            with contextlib.suppress(NotRun):
                if first_failure(copy, (alone([before]),)) is not None:
                    return before
        return first_failure(copy, stages_for(fault))
    finally:
        write(path, source)


def fails_without(copy: Path, tests: Iterable[str]) -> str | None:
    """Returns the first of these tests that fails without any fault; None = all pass."""
    by_part: dict[str, list[str]] = {}
    for test in sorted(set(tests)):
        by_part.setdefault("/".join(test.split("/")[:2]), []).append(test)
    return first_failure(copy, map(alone, by_part.values()))


def main() -> int:
    """Plants the faults that the command line names; returns 0 only if every one is caught."""
    parser = argparse.ArgumentParser(prog="hack/mutate", description=__doc__)
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help="a fault, by its name or a part of it"
    )
    parser.add_argument(
        "--list", action="store_true", help="print the faults, one per line, and plant none"
    )
    parser.add_argument(
        "--new", action="store_true", help="plant only those that no test is known to catch"
    )
    given = parser.parse_args()
    caught_by = known()
    chosen = [
        fault
        for fault in FAULTS
        if not given.names or any(name in fault.name for name in given.names)
        if not given.new or fault.name not in caught_by
    ]
    if not chosen:
        parser.error(f"no fault has a name that contains one of {given.names}; see --list")
    if given.list:
        for fault in chosen:
            print(f"{fault.name:<40} {fault.file}")
        return 0
    missed = 0
    with tempfile.TemporaryDirectory(prefix="gpujob-mutate-") as scratch:
        copy = copied(Path(scratch))
        for fault in chosen:
            started = time.monotonic()
            test = caught(fault, copy, caught_by.pop(fault.name, None))
            if test is None:
                missed += 1
            else:
                caught_by[fault.name] = test
            keep(caught_by)
            seconds = time.monotonic() - started
            print(f"{fault.name:<40} {test or 'NOT CAUGHT'}  {seconds:.0f} s", flush=True)
        seen = [caught_by[fault.name] for fault in chosen if fault.name in caught_by]
        # A test that fails without a fault would seem to catch every fault.
        if (test := fails_without(copy, seen)) is not None:
            print(f"hack/mutate: {test} fails without any fault; fix that first", file=sys.stderr)
            return 1
    print(f"{len(chosen)} planted, {len(chosen) - missed} caught")
    return 0 if missed == 0 else 1


if __name__ == "__main__":
    sys.exit(main())
