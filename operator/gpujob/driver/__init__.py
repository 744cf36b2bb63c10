"""The program in the driver pod: runs one workload on its rented machine, over SSH.

Two loops share what is known (`findings`). The way of the data:

1. report: `reporting` sends the findings to the controller, news at once (`api/transport`).
2. assignment: the answer says what to do, and on which machine; `reporting` hands it to `work`.
3. machine: `work` connects to it (`adapters/ssh`, one pinned host key), has it measured
   (`measure`), copies inputs there (`claims`, `files`) and starts the workload at most once
   (`supervisor`); until its end it looks, samples the GPUs (`usage`), carries output to the pod's
   log and to a claim (`output`, `state`), checkpoints to a claim, and connections to its ports.
4. outcome: the exit code, after all output and files were carried; the container's termination
   message holds it too, in case the controller never hears of it.
5. acknowledged: only when the controller has stored the outcome does it answer `Exit`.

Everything that must survive a restart of the container is in `state` or on the machine.
"""
