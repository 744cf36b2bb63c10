"""How true the cost gate's statements are on traces of real jobs, beside a yardstick.

Everything is strictly in the order of time: a job's bound is made with what had ended when it was
submitted, and with how long others had been running by then.
"""
