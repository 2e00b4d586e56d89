"""The main job: one command, one config, a whole simulated experiment.

``python fedinverse_sim.py [CONFIG] [--set section.key=value]... [--out DIR] [--resume] [--profile]``
"""

from fedinverse.program import collect_rarely
from pipeline.cli.main import EXAMPLES, guarded, run
from pipeline.cli.program import Program

HELP = """Simulate a federation with a malicious participant, invert what it captured, audit and report.

Flower runs the federation over Ray-simulated clients. One client keeps every global model it is sent and inverts
it afterwards. An auditor, with images no client holds, tells how much of the victim's classes it got.
"""

if __name__ == "__main__":
    collect_rarely()
    app = Program(no_args_is_help=False)
    app.command(help=HELP, epilog=EXAMPLES)(run)
    guarded(app)
