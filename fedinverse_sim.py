"""The main job: one command, one config, a whole simulated experiment.

``python fedinverse_sim.py [CONFIG] [--set section.key=value]... [--out DIR] [--resume] [--profile]``
"""

from pipeline.cli.main import EXAMPLES, guarded, run
from pipeline.cli.program import Program
from pipeline.cli.run_options import ConfigArgument, DryRunOption, OutOption, ProfileOption, ResumeOption, SetOption


def main(
    config: ConfigArgument = "quickstart",
    set_: SetOption = None,
    out: OutOption = None,
    resume: ResumeOption = False,
    profile: ProfileOption = False,
    dry_run: DryRunOption = False,
) -> None:
    """Simulate a federation with a malicious participant, invert what it captured, audit and report.

    Flower runs the federation over Ray-simulated clients. One client keeps every global model it is sent and inverts
    it afterwards. An auditor, with images no client holds, tells how much of the victim's classes it got.
    """
    run(config, set_, out, resume, profile, dry_run)


if __name__ == "__main__":
    app = Program(no_args_is_help=False)
    app.command(epilog=EXAMPLES)(main)
    guarded(app)
