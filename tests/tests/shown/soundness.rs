//! Who keeps what alive, rule by rule.

use super::Rule;

pub(super) const RULES: &[Rule] = &[
    Rule {
        rule: "What the kernel reads or writes besides buffers stands in slots that never move.",
        shown_by: &[
            "memory/addresses_stay_where_they_are",
            "dataplane: results_waiting_take_more_slots_and_nothing_moves",
            "dataplane: datagrams_bring_their_senders",
            "dataplane: few_vectors_need_no_memory_and_many_keep_theirs",
        ],
    },
    Rule {
        rule: "An operation owns its buffers; nothing borrowed goes into one.",
        shown_by: &[
            "ownership/refused/send_takes_no_borrow.rs",
            "ownership/refused/lease_in_flight.rs",
            "ownership/refused/request_is_used_once.rs",
            "memory/a_span_outlives_its_slab",
            "memory/a_dropped_send_keeps_its_span",
            "file/dropped_reads_give_slots_back",
        ],
    },
    Rule {
        rule: "Only a lease is written to; a span is shared, and a lease again only when alone.",
        shown_by: &[
            "ownership/refused/lease_is_exclusive.rs",
            "ownership/refused/lease_frozen.rs",
            "ownership/refused/span_is_not_written.rs",
            "ownership/refused/span_derefs_to_nothing.rs",
            "memory/a_span_is_shared_and_comes_back",
        ],
    },
    Rule {
        rule: "Memory that others can write gives no slice; memory without an address no pointer.",
        shown_by: &[
            "memory/shared_memory_gives_no_slice",
            "memory/device_memory_is_refused",
            "registration/device_memory_has_no_address",
        ],
    },
    Rule {
        rule: "The loop and what is made on it stay on their thread; handles and buffers cross.",
        shown_by: &[
            "ownership/allowed/what_stays_on_its_thread.rs",
            "ownership/refused/stays_is_a_proof.rs",
            "ownership/allowed/what_crosses_threads.rs",
            "ownership/allowed/remote_futures_are_spawned.rs",
            "remote/a_socket_moves_over",
            "remote/a_socket_in_use_stays",
        ],
    },
    Rule {
        rule: "An operation of another thread is the loop's: it outlives the thread that asked.",
        shown_by: &["remote/its_thread_may_end_first", "remote/dropped_submissions_end"],
    },
    Rule {
        rule: "Code of the user runs with nothing borrowed; inside it all is allowed but polling.",
        shown_by: &[
            "callbacks/submit_inside",
            "callbacks/drop_handles_inside",
            "callbacks/poll_inside_is_busy",
            "callbacks/drop_the_proactor_inside",
            "remote/calls_bring_values",
            "dataplane: a_waker_is_cloned_with_nothing_borrowed",
            "dataplane: a_buffer_taken_in_vain_goes_back_with_nothing_borrowed",
        ],
    },
    Rule {
        rule: "A panic of the user's leaves the poll; everybody else is told, once.",
        shown_by: &[
            "callbacks/a_panic_loses_nobody_else",
            "callbacks/on_each_panics",
            "remote/a_call_that_panics",
            "dataplane: a_panic_in_a_multishot_callback_ends_its_operation",
            "dataplane: a_panic_while_shutting_down_frees_no_memory_in_use",
        ],
    },
    Rule {
        rule: "A name has a generation: a late one reaches nobody.",
        shown_by: &[
            "descriptor/an_old_name_reaches_nobody",
            "core/names_are_not_reused",
            "dataplane: a_name_dies_with_its_operation",
            "dataplane: generations_skip_zero_when_they_wrap",
            "dataplane: a_cancel_by_the_name_of_another_proactors_operation_finds_nothing",
        ],
    },
    Rule {
        rule: "A slot is free when the kernel owes it nothing: memory waits for the last event.",
        shown_by: &[
            "memory/a_dropped_send_keeps_its_span",
            "registration/memory_lives_until_released",
            "shutdown/work_on_helpers_is_waited_for",
            "shutdown/every_waiter_is_told",
            "dataplane: a_receive_begun_in_a_freed_slot_keeps_its_lease_on_io_uring",
        ],
    },
    Rule {
        rule: "A completion nobody awaits owns what it brought: descriptors close, buffers return.",
        shown_by: &[
            "descriptor/accepted_for_nobody_is_closed",
            "file/a_dropped_open_is_closed",
            "memory/a_dropped_stream_returns_buffers",
            "cancel_race/accept_keeps_its_connection",
            "cancel_race/recv_keeps_its_bytes",
        ],
    },
    Rule {
        rule: "A chain is written whole or not at all; a batch submits all of it or nothing.",
        shown_by: &[
            "dataplane: a_chain_that_does_not_fit_stages_nothing",
            "dataplane: what_is_left_of_a_chain_that_was_cut_does_not_run",
            "batch/a_malformed_one_submits_none",
            "batch/no_room_hands_all_back",
        ],
    },
    Rule {
        rule: "A registered entry is released when the kernel says so, a pool when none is armed.",
        shown_by: &[
            "registration/release_waits_for_the_kernel",
            "registration/dropped_on_another_thread",
            "registration/slab_dropped_on_another_thread",
            "dataplane: the_tag_waits_for_the_read_that_is_in_flight",
            "dataplane: a_ring_dropped_too_early_is_leaked_and_counted",
            "dataplane: unregistering_waits_for_operations_still_in_line",
        ],
    },
    Rule {
        rule: "A late return to a dead pool releases memory and nothing else.",
        shown_by: &[
            "registration/a_late_return_to_a_dead_pool",
            "registration/pool_names_are_used_again",
            "registration/outlives_the_proactor",
        ],
    },
    Rule {
        rule: "A wake is one atomic word and at most one write; it keeps errno, and none is lost.",
        shown_by: &[
            "tests: a_wake_is_at_most_one_write",
            "remote/a_wake_ends_a_poll",
            "wake/from_many_threads",
            "dataplane: a_saturated_bell_still_rings_and_errno_survives",
            "dataplane: a_wake_request_is_never_lost",
            "dataplane: no_item_is_left_behind_a_sleeping_owner",
        ],
    },
    Rule {
        rule: "A forked child owns nothing: calls say so, drops leave the kernel alone.",
        shown_by: &[
            "tests: every_call_in_the_child_says_forked",
            "tests: a_child_that_drops_everything_disturbs_nothing",
            "tests: a_child_makes_its_own_proactor",
            "tests: work_on_helpers_is_the_parents",
            "dataplane: a_grandchild_is_neither",
        ],
    },
];
