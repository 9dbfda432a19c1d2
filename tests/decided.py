"""Every code that was assigned: its name, its severity and the evidence it rests on. Codes are never reused."""

_TABLE = """
LD001 unparsable-source E
LD002 check-did-not-complete E
LD003 unused-suppression W
LD004 unreadable-file E
LD101 adapter-on-adapter E LO1
LD102 wrapped-twice E MA10
LD103 fresh-adapter-for-trained-one E LO3
LD104 frozen-resume E LO2
LD105 strict-false-adapter-load E LO4
LD106 pickle-against-state-dict E LO5
LD107 native-adapter-api E LO6
LD108 adapter-on-other-head E LO7
LD109 swallowed-argument W LO8
LD110 shared-base-model E LO9
LD111 adapter-subfolder E LO10
LD112 wrong-loader-arguments E LO11 LO12
LD113 adapter-not-activated E MA1
LD114 adapter-name E MA4 MA5 MA7
LD115 set-adapter-list E MA2
LD116 base-model-attribute E MG6
LD117 compile-before-wrap E SV9
LD118 mixed-adapter-use E MA8 MA9
LD201 unwrapped-model-trained E TR1
LD202 optimizer-before-wrap E TR2
LD203 frozen-after-wrap E TR3
LD204 trained-but-not-saved E TR4
LD205 trained-after-merge E TR5
LD206 checkpointing-cuts-graph E TR6
LD207 half-precision-adapter E TR7 TR8
LD208 disable-adapter-statement E TR11
LD209 peft-config-twice E TR12
LD210 reference-is-policy E TR13
LD211 kbit-unprepared W QT1
LD212 second-adapter-not-trained E MA3
LD213 adalora-without-update W TR16
LD214 bare-tuner-class W TR18
LD215 quantized-model-misuse E QT3 QT5 QT6
LD216 resume-optimizer-mismatch E TR17
LD217 device-map-with-ddp E DI1
LD218 sharded-lora-setup E DI2 DI4
LD219 save-on-every-rank W DI5
LD220 ungathered-save E DI3
LD221 learning-rate-default I TR9
LD222 dropout-at-inference W TR10
LD223 no-labels E TR14 TR15
LD224 set-adapter-unfreezes W MA6
LD301 merge-result-dropped E SV1
LD302 trainer-unaware-of-merge E SV2
LD303 inner-model-saved E SV3
LD304 merged-into-adapter-dir E SV5
LD305 state-dict-patch E SV6
LD306 none-assigned E SV7
LD307 wrapper-saved E SV8
LD308 raw-state-dict-as-adapter E SV10
LD309 untrained-adapter-saved W SV11
LD310 tokenizer-not-saved I SV12
LD311 training-setting-saved I SV13
LD320 merge-into-quantized W MG2
LD321 merge-tied-weights E MG3
LD322 adapter-applied-twice E MG4
LD323 merge-unsupported E MG5
LD324 merge-adapter-as-backup I MG7
LD325 weights-mutating-init W MG8
LD326 combination-not-activated E MG9
LD330 peft-dir-into-pipeline E DF1
LD331 lora-alpha-lost E DF2
LD332 injected-pipeline-saved E DF3
LD333 pipeline-adapter-misuse E DF4 DF5
LD401 task-type-head-mismatch E CF1
LD402 target-modules-string E CF2
LD403 target-modules-partial E CF3
LD404 target-modules-unknown E CF4
LD405 unknown-config-field E CF5 CF6
LD406 mutator-as-argument E CF7
LD407 config-changed-after-wrap E CF8 CF9
LD408 inference-mode-training E CF10
LD409 invalid-config-value E CF13 CF15 QT7
LD410 scaling-hint I CF11 CF12 CF14
LD411 not-servable I CF16
LD412 quantization-config E QT4
LD413 implicit-dtype I DP4
LD420 pad-is-eos W TK1
LD421 tokens-without-resize E TK2
LD422 resized-not-trained E TK3
LD423 load-without-resize E TK4
LD424 resize-after-wrap E TK5
LD425 resize-shrinks W TK6
LD426 double-bos W TK7
LD427 chat-template-result E TK8
LD428 collator-misuse E TK9 TK10
LD440 removed-api E QT2 DP
LD441 deprecated-api W DP
LD450 unsafe-load W SE1
LD451 pickle-adapter-saved I SE2
LD452 remote-code I SE3
LD453 token-in-code E SE4
LD454 unpinned-revision I SE5
LD501 no-weights E F1
LD502 unreadable-weights E F2
LD503 lfs-pointer E F2
LD504 duplicate-tensor-name E F3
LD505 weights-disagree W F4
LD506 unsafe-pickle E F5
LD507 not-a-state-dict E F5
LD508 empty-weights E T3
LD509 foreign-format E K5
LD510 pickle-weights I SE2
LD520 unreadable-config E C9
LD521 unknown-method E C8
LD522 invalid-config-field E C2 C11
LD523 unknown-config-field W C10
LD525 base-path W C12
LD527 odd-scaling W C2
LD528 duplicate-config-key W C9
LD529 runtime-flags I C7 C13 C14
LD530 tokens-beyond-vocabulary E F6 C17
LD601 nested-wrapping E K1
LD602 wrapper-prefix E K2
LD603 adapter-name-in-key W K3
LD604 prefix-missing E K4
LD605 outside-target-modules E K6
LD606 missing-tensors E K7 K9 K12
LD607 orphan-half E K8
LD608 overwrites-base E K10 E2 E8
LD609 swapped-halves E K11
LD610 name-collision-loss E K13
LD611 rank-mismatch E C1
LD612 flag-lost E C3 C4
LD613 target-modules-missing E C5
LD614 modules-to-save E E1 E3
LD615 base-mismatch E M1 M2
LD616 vocabulary-mismatch E E4 E5
LD617 would-not-load E
LD618 target-absent-in-base W C6
LD701 not-finite E T1
LD702 untrained E T2
LD703 dead-modules W T2
LD704 zero-a E T2
LD705 odd-dtype W T5
LD706 precision-range W T4
LD707 outlier I T6
LD708 rank-deficient I T6
LD709 duplicated-layers W T6
LD801 merge-not-equivalent E
LD802 update-lost-to-rounding W T7
LD803 merge-overflow E T4
LD804 cannot-merge I
LD805 layer-replication E C16
LD806 tied-target E E6 E7
LD807 weights-mutating-init I C15
LD810 merge-not-applied E
LD811 merged-with-wrong-scale E
LD812 untouched-weights-changed E
LD813 merge-leftovers E
LD814 merged-incomplete E
LD815 merge-unexplained E
LD820 target-refuses E
LD821 target-silently-wrong W
"""
"""Code, name, severity where it is certain (Error, Warning, Info), evidence."""

CODES = {code: (name, severity, tuple(refs)) for code, name, severity, *refs in map(str.split, _TABLE.strip().splitlines())}

RELEASED = frozenset(
    """
    LD001 LD002 LD003 LD004 LD101 LD102 LD103 LD104 LD105 LD106 LD201 LD202 LD203 LD208 LD301 LD302 LD303 LD305 LD320
    LD401 LD501 LD502 LD503 LD504 LD505 LD506 LD507 LD508 LD509 LD510 LD520 LD521 LD522 LD523 LD525 LD527 LD528 LD601
    LD602 LD603 LD604 LD605 LD606 LD607 LD608 LD611 LD612 LD613 LD614 LD615 LD617 LD618 LD701 LD702 LD703 LD704 LD801
    LD802 LD803 LD804 LD805 LD806
    """.split()
)
"""Codes that a release has had: a rule may be deepened, not dropped."""
