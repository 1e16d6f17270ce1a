//! The branches of the loop for pressure and failure, one by one.
//!
//! Cases run in every configuration of the matrix, `sqpoll` among them, so a row's cases show it
//! with a kernel thread that submits too. That their lines are reached is measured by the coverage
//! command (`tests/src/coverage`), which knows lines; which test reached them is known here.

use super::Rule;

pub(super) const BRANCHES: &[Rule] = &[
    Rule {
        rule: "The submission queue is full: what finds no room stands in line, in order.",
        shown_by: &[
            "pressure/more_than_the_queue_holds",
            "pressure/a_batch_longer_than_the_queue",
            "pressure/flushes_empty_the_line",
            "tests: a_submission_queue_of_two_is_enough",
        ],
    },
    Rule {
        rule: "It is full while cancelling: what stands in line is taken out, the rest is asked.",
        shown_by: &[
            "pressure/full_while_cancelling_all",
            "pressure/cancelled_while_it_stands_in_line",
            "pressure/dropped_while_it_stands_in_line",
            "pressure/full_while_timing_out",
            "pressure/full_while_closing",
        ],
    },
    Rule {
        rule: "It is full while re-arming: accepts, pools, pauses and the bell go on behind it.",
        shown_by: &[
            "pressure/full_while_rearming_accepts",
            "pressure/full_while_rearming_pools",
            "pressure/full_while_resuming",
            "pressure/wakes_come_through_a_full_queue",
        ],
    },
    Rule {
        rule: "It is full while unregistering: nothing in line names what is given back.",
        shown_by: &[
            "pressure/a_registration_waits_for_the_line",
            "dataplane: unregistering_waits_for_operations_still_in_line",
            "tests: memory_is_given_back_while_enters_are_busy",
        ],
    },
    Rule {
        rule: "It is full when a chain comes: entered whole, or emulated.",
        shown_by: &[
            "dataplane: a_chain_that_does_not_fit_stages_nothing",
            "dataplane: a_sequence_longer_than_the_queue_is_looked_through_once",
            "sqpoll/a_sequence_behind_a_full_queue",
            "tests: a_chain_behind_an_enter_that_fails_is_emulated",
            "tests: a_ring_whose_chains_cannot_be_mended_links_nothing",
        ],
    },
    Rule {
        rule: "The kernel takes a part of a chain: the rest waits for its turn.",
        shown_by: &["dataplane: a_chain_of_which_the_kernel_took_a_part_goes_on_in_order"],
    },
    Rule {
        rule: "The completion queue overflows: nothing is lost, and what it ended is armed again.",
        shown_by: &[
            "tests: a_completion_queue_that_overflows_loses_nothing",
            "dataplane: an_overflowed_queue_gives_everything_after_a_reap_and_an_enter",
            "pressure/wakes_after_an_overflow",
            "watch_ends/not_by_a_small_queue",
        ],
    },
    Rule {
        rule: "Entering is refused for now (EBUSY, EAGAIN): what is staged stays and goes later.",
        shown_by: &[
            "tests: an_enter_that_is_busy_keeps_what_is_staged",
            "tests: an_enter_without_memory_for_requests_keeps_what_is_staged",
            "tests: a_shutdown_whose_enters_are_busy_ends",
        ],
    },
    Rule {
        rule: "Entering is interrupted (EINTR), which is no result.",
        shown_by: &["tests: an_interrupted_enter_is_no_result"],
    },
    Rule {
        rule: "Entering fails for good: the poll says so, and nothing staged is lost.",
        shown_by: &[
            "tests: an_enter_that_fails_is_told_and_loses_nothing",
            "tests: a_polled_ring_that_is_not_entered_loses_nothing",
        ],
    },
    Rule {
        rule: "The kernel lost completions (EBADR): every waiter is told, the proactor is over.",
        shown_by: &[
            "tests: an_enter_that_lost_completions_tells_every_waiter",
            "dataplane: a_receive_that_waited_for_a_buffer_stays_over",
            "dataplane: a_close_that_waited_for_its_descriptor_stays_over",
        ],
    },
    Rule {
        rule: "A wake source ends or is full: the watch of the bell is armed again, none is lost.",
        shown_by: &[
            "pressure/wakes_after_an_overflow",
            "dataplane: a_saturated_bell_still_rings_and_errno_survives",
            "dataplane: a_wake_request_is_never_lost",
            "wake/after_the_end",
        ],
    },
    Rule {
        rule: "A buffer pool runs dry, or a multishot is ended underneath: it pauses and goes on.",
        shown_by: &[
            "pool/dry_pauses_and_goes_on",
            "pool/dry_again_and_again",
            "pool/nobody_takes_and_dry",
            "accept/incoming_pauses_again",
            "dataplane: an_ended_multishot_gives_its_last_result_without_more",
        ],
    },
    Rule {
        rule: "Descriptors run out: an accept says so, a stream of them survives it.",
        shown_by: &[
            "tests: an_accept_without_descriptors_says_so",
            "tests: a_stream_of_accepts_survives_a_full_table",
        ],
    },
    Rule {
        rule: "A table or a queue of ours is full: an error that names it, and room afterwards.",
        shown_by: &[
            "tests: results_that_nobody_takes_are_bounded",
            "tests: a_full_table_of_registered_descriptors_names_its_size",
            "tests: a_full_table_of_registered_memory_names_its_size",
            "tests: jobs_for_helper_threads_are_bounded",
        ],
    },
    Rule {
        rule: "No helper thread can be started, or none may: the operation fails, and says so.",
        shown_by: &[
            "tests: a_helper_that_cannot_start_is_an_error_of_the_operation",
            "file/without_helpers",
            "options/resolve_without_helpers",
        ],
    },
    Rule {
        rule: "A backlog of another is full, which no readiness tells: it is asked again.",
        shown_by: &["unix/connects_wait_for_a_backlog", "unix/datagrams_to_a_full_peer"],
    },
    Rule {
        rule: "What cannot be drained is leaked, and whoever waits for it is told.",
        shown_by: &["tests: what_cannot_end_is_leaked_and_said"],
    },
    Rule {
        rule: "Start-up fails half way, at any step: refused with the limit, and nothing is left.",
        shown_by: &[
            "tests: io_uring_start_up_leaks_nothing_at_any_step",
            "tests: epoll_start_up_leaks_nothing_at_any_step",
            "tests: poll_start_up_leaks_nothing_at_any_step",
            "tests: auto_start_up_leaks_nothing_at_any_step",
            "thread/a_start_that_fails_leaves_no_thread",
            "thread/pool_starts_all_or_none",
        ],
    },
    Rule {
        rule: "io_uring is forbidden, or memory for it is short: another backend, and why.",
        shown_by: &[
            "tests: eperm_leaves_a_working_loop",
            "tests: enosys_leaves_a_working_loop",
            "tests: an_ordinary_user_with_little_locked_memory",
            "tests: an_ordinary_user_with_no_locked_memory",
            "dataplane: table_sizes_are_halved_to_what_the_kernel_takes",
            "tests: a_kernel_that_refuses_tables_has_none",
            "tests: a_kernel_without_memory_for_tables_has_none_for_now",
            "tests: a_probe_without_descriptors_is_made_again",
        ],
    },
    Rule {
        rule: "SQPOLL, polled: the thread is woken when it sleeps, and left asleep over nothing.",
        shown_by: &[
            "sqpoll/polls_wake_a_sleeping_thread",
            "sqpoll/polls_end_in_time",
            "sqpoll/more_than_the_queue_holds",
            "sqpoll/multishot_results_need_no_enter",
            "sqpoll/woken_from_other_threads",
            "dataplane: an_idle_submission_thread_is_left_asleep",
            "tests: a_polled_submission_queue_works",
        ],
    },
    Rule {
        rule: "SQPOLL, flushed: what is handed over goes on without its owner.",
        shown_by: &["sqpoll/flushed_work_needs_no_poll", "sqpoll/flushes_of_nothing"],
    },
    Rule {
        rule: "SQPOLL, in sequences: a chain moves by itself, and is never cut.",
        shown_by: &[
            "sqpoll/a_sequence_goes_on_without_its_owner",
            "sqpoll/a_gate_opens_without_its_owner",
            "sqpoll/a_sequence_behind_a_full_queue",
            "sqpoll/a_sequence_that_fails_half_way",
        ],
    },
    Rule {
        rule: "SQPOLL, at the end: what the thread has taken, and what it has not, is accounted.",
        shown_by: &[
            "sqpoll/shutdown_delivers_what_completes",
            "sqpoll/shutdown_calls_back_the_rest",
            "sqpoll/dropped_before_it_was_polled",
            "sqpoll/cancels_what_it_has_not_taken",
            "sqpoll/a_registration_outlives_what_names_it",
            "dataplane: a_dropped_ring_submits_nothing_that_was_only_staged",
        ],
    },
    Rule {
        rule: "A context is run, run until a time, and stopped; out of work it is stopped.",
        shown_by: &[
            "context/out_of_work_is_stopped",
            "context/runs_what_was_posted_in_order",
            "context/a_stop_ends_every_run",
            "context/what_a_stop_leaves_is_run_later",
            "local_context/a_wait_ends_at_the_callers_time",
            "local_context/stop_and_restart",
            "sqpoll/run_by_a_context",
            "sqpoll/run_by_a_local_context",
        ],
    },
    Rule {
        rule: "A context is run one handler at a time: run_one, poll, poll_one, wait_one.",
        shown_by: &[
            "context/run_one_runs_one",
            "context/poll_does_not_wait",
            "context/poll_ends_whatever_is_posted",
            "context/wait_one_ends_in_time",
            "local_context/one_at_a_time_in_order",
            "local_context/poll_ends_whatever_is_posted",
        ],
    },
    Rule {
        rule: "A context is run by several threads, nested, and left by any of them.",
        shown_by: &[
            "context/two_runners_run_at_once",
            "context/runners_leave_at_any_time",
            "context/its_runner_may_leave_first",
            "context/nested_in_itself_it_never_waits",
            "local_context/nested_each_with_its_budget",
            "context/a_panic_leaves_its_runner",
        ],
    },
    Rule {
        rule: "Its driver is its own thread, somebody's proactor or a host, and may end first.",
        shown_by: &[
            "driver/a_proactor_that_somebody_polls",
            "driver/one_for_two_contexts",
            "driver/it_may_end_first",
            "driver/a_context_stops_its_own",
            "submitter/runs_and_ends",
            "hosted/a_host_by_hand",
            "hosted/a_host_that_fails",
            "sqpoll/run_by_threads_of_their_own",
            "sqpoll/run_by_a_host",
        ],
    },
    Rule {
        rule: "A busy loop still looks at timers, wakes and messages.",
        shown_by: &[
            "pressure/timers_come_through_a_busy_loop",
            "context/a_busy_runner_delays_no_timer",
            "local_context/a_busy_loop_reaps",
            "message/endless_ones_starve_nobody",
        ],
    },
    Rule {
        rule: "The deadline of a shutdown passes: the rest is leaked, told and counted.",
        shown_by: &[
            "shutdown/a_deadline_that_passes_cancels",
            "tests: what_cannot_end_is_leaked_and_said",
            "thread/shutdown_waits_only_so_long",
            "dataplane: a_panic_while_shutting_down_frees_no_memory_in_use",
        ],
    },
];
