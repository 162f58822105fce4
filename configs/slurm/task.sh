# Shared by the batch files of this folder: the share of a task, and how a stage is run.
set -u
restarts=20 # the task queues itself again at most so many times

refuse() { # print one error line, as the stages do, and exit
    echo "error: $1" >&2
    exit 2
}

need_array() { # argument: the remedy
    [ -n "${SLURM_ARRAY_TASK_ID:-}" ] || refuse "--array: found no array; $1"
}

# Print i/n for this task: i is its position in the array or, with OF=n, its id.
share_of_array() {
    need_array "submit with sbatch --array=0-7, and the work is cut in 8"
    local id=$SLURM_ARRAY_TASK_ID
    if [ -n "${OF:-}" ]; then
        echo "$id/$OF"
        return
    fi
    local first="${SLURM_ARRAY_TASK_MIN:-0}" last="${SLURM_ARRAY_TASK_MAX:-0}"
    local count="${SLURM_ARRAY_TASK_COUNT:-1}" again="OF=8 sbatch --array=3 does task 3 of 8 again"
    # With gaps in the ids n is unknown, and shares would silently be left out.
    if [ $((last - first + 1)) -ne "$count" ] || [ "$first" -gt 1 ]; then
        refuse "--array: found $count ids from $first to $last; give 0-7 or 1-8 for 8; $again"
    fi
    echo "$((id - first))/$count"
}

choose_python() {
    if [ -n "${PYTHON:-}" ]; then
        echo "$PYTHON"
    elif [ -x .venv/bin/python ]; then
        echo .venv/bin/python
    else
        echo python3
    fi
}

# Run a stage with its flags, and exit with its exit code. On SLURM's signal (USR1, before the time
# limit) the stage stops with 75; then this task is queued again and continues where it stopped.
run_stage() {
    local python code=127 last
    python=$(choose_python)
    # Results depend on the number of threads by rounding: use the number that was requested.
    export OMP_NUM_THREADS="${OMP_NUM_THREADS:-${SLURM_CPUS_PER_TASK:-1}}" PYTHONUNBUFFERED=1
    local launcher=()
    # One rank for each task of the job; if one fails, srun ends the others.
    [ "${SLURM_NTASKS:-1}" -le 1 ] || launcher=(srun --kill-on-bad-exit=1
        --cpus-per-task="${SLURM_CPUS_PER_TASK:-1}")
    echo "+ ${launcher[*]:+srun }$python $* (on $(hostname), restart ${SLURM_RESTART_COUNT:-0})"
    child='' signalled='' passed='' ended=''
    trap 'pass_on' USR1
    trap 'ended=1; pass_on' TERM
    ${launcher[@]+"${launcher[@]}"} "$python" "$@" &
    child=$!
    while :; do # a signal interrupts `wait`
        signalled=''
        wait "$child"
        last=$?
        # 127: the signal came after the child ended, and older shells have forgotten the child.
        [ "$last" -eq 127 ] || code=$last
        [ -n "$signalled" ] || break
    done
    requeue_if_stopped "$code"
    exit "$code"
}

pass_on() { # once; USR1, because srun forwards it, but kills its ranks on TERM
    signalled=1
    [ -n "$child" ] && [ -z "$passed" ] || return
    passed=1
    kill -USR1 "$child" 2>/dev/null
}

requeue_if_stopped() { # argument: the exit code
    # TERM comes from scancel, scontrol requeue and preemption: then SLURM decides. If a cancelled
    # task were queued again here, it could never be cancelled.
    [ "$1" -eq 75 ] && [ -z "$ended" ] && [ -n "${SLURM_JOB_ID:-}" ] || return
    if [ "${SLURM_RESTART_COUNT:-0}" -ge "$restarts" ]; then
        echo "stopped: restarted $restarts times already; submit it again to go on" >&2
        return
    fi
    # The id of an array's last task equals that of the array, and would queue all tasks again.
    local task=$SLURM_JOB_ID
    [ -z "${SLURM_ARRAY_JOB_ID:-}" ] || task=${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID
    echo "stopped: queued again as $task"
    scontrol requeue "$task" && sleep 60 # SLURM ends this script during the sleep
}
