#!/bin/bash
# A study on a Slurm cluster: one job with a scheduler, a head and a worker for each task (docs/scaling.md).
#
#   sbatch --ntasks=8 --gpus-per-task=1 cloud/slurm.sh rank            options after the study go to it: --quick
#
# Submit it in the repository's root, on a file system that all nodes see, after `make setup`, `.venv/bin/pip
# install -r onesentence/study/requirements.txt`, `make remote`, `git push` and `dvc push`.
# A job that is requeued or submitted again goes on: finished runs are in the remotes, and a run that was
# stopped goes on at its last checkpoint.
#SBATCH --job-name=onesentence-study
#SBATCH --ntasks=2
#SBATCH --cpus-per-task=2
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
# Two minutes before the time is over, this script ends the study, and with it the runs on the workers.
#SBATCH --signal=B:TERM@120
set -euo pipefail

if [ $# -lt 1 ]; then
    echo "usage: sbatch [OPTIONS OF SLURM] cloud/slurm.sh STUDY [--quick]" >&2
    exit 2
fi
cd "${SLURM_SUBMIT_DIR:?submit this script with sbatch}"
export PATH="$PWD/.venv/bin:$PATH"
# Both on a file system that all nodes see: checkpoints of a run that another node continues, and the file by
# which workers find the scheduler. The job's number keeps jobs apart.
export ONESENTENCE_CHECKPOINTS="${ONESENTENCE_CHECKPOINTS:-$PWD/models/checkpoints}"
file="$PWD/.dvc/tmp/scheduler-$SLURM_JOB_ID.json"
# Clones, and a cache of what they make: on the node's own disk.
scratch="${SLURM_TMPDIR:-${TMPDIR:-/tmp}}"
mkdir -p "$(dirname "$file")" "$ONESENTENCE_CHECKPOINTS"
rm -f "$file"

python -m distributed.cli.dask_scheduler --no-dashboard --port 0 --scheduler-file "$file" &
scheduler=$!
srun --kill-on-bad-exit=0 python -m distributed.cli.dask_worker --scheduler-file "$file" --nthreads 1 \
    --no-dashboard --local-directory "$scratch" --death-timeout 600 &
workers=$!
head=""
trap '[ -z "$head" ] || kill -TERM "$head" 2>/dev/null || true' TERM INT
for _ in $(seq 120); do
    [ -s "$file" ] && break
    sleep 1
done

python -m onesentence study "$@" --scheduler "$file" &
head=$!
status=0
wait "$head" || status=$?
# A signal ends the first `wait` before the head has ended.
if kill -0 "$head" 2>/dev/null; then
    status=0
    wait "$head" || status=$?
fi
kill -TERM "$workers" "$scheduler" 2>/dev/null || true
wait "$workers" "$scheduler" 2>/dev/null || true
rm -f "$file"
exit "$status"
