//! Bugs that can be planted between the machines, the stores and the world. A simulator that does
//! not find them finds none like them either.

/// A planted bug.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[expect(missing_docs, reason = "`Bug::story` says what each is")]
pub enum Bug {
    QuorumIsHalf,
    HintCountsAsAck,
    HintRestamped,
    HintsByName,
    RetryRestamped,
    RetryTakesEffectTwice,
    SupersededCountsAsAck,
    SelfCountsTwice,
    TimeoutIsRefusal,
    RollbackOfUnknown,
    ReadFromOne,
    ReadRepairNotAwaited,
    ReadRepairDropsDeletions,
    ReadRepairSendsCurrent,
    FirstAnswerWins,
    DeletedIsAbsent,
    TieByArrival,
    DeletionsAlwaysWin,
    AckBeforeSync,
    UnsyncedIsVisible,
    StampsForgotten,
    FutureStampsTaken,
    DeletionsForgottenByAge,
    FloorNotChecked,
    FloorFromSome,
    WipedKeepsIdentity,
    LeafOffByOne,
    RepairSkipsDeletions,
    RepairRestamped,
    SearchForgetsDeletions,
}

impl Bug {
    /// Every bug.
    pub const ALL: [Self; 30] = [
        Self::QuorumIsHalf,
        Self::HintCountsAsAck,
        Self::HintRestamped,
        Self::HintsByName,
        Self::RetryRestamped,
        Self::RetryTakesEffectTwice,
        Self::SupersededCountsAsAck,
        Self::SelfCountsTwice,
        Self::TimeoutIsRefusal,
        Self::RollbackOfUnknown,
        Self::ReadFromOne,
        Self::ReadRepairNotAwaited,
        Self::ReadRepairDropsDeletions,
        Self::ReadRepairSendsCurrent,
        Self::FirstAnswerWins,
        Self::DeletedIsAbsent,
        Self::TieByArrival,
        Self::DeletionsAlwaysWin,
        Self::AckBeforeSync,
        Self::UnsyncedIsVisible,
        Self::StampsForgotten,
        Self::FutureStampsTaken,
        Self::DeletionsForgottenByAge,
        Self::FloorNotChecked,
        Self::FloorFromSome,
        Self::WipedKeepsIdentity,
        Self::LeafOffByOne,
        Self::RepairSkipsDeletions,
        Self::RepairRestamped,
        Self::SearchForgetsDeletions,
    ];

    /// What is wrong, in words.
    #[must_use]
    pub fn story(self) -> &'static str {
        match self {
            Self::QuorumIsHalf => "a quorum is half of the replicas, rounded down",
            Self::HintCountsAsAck => "a hint counts as an acknowledgement",
            Self::HintRestamped => "a hint carries a stamp of its own",
            Self::HintsByName => "hints are sent to whoever has the name of the node",
            Self::RetryRestamped => "a write that is tried again gets another stamp",
            Self::RetryTakesEffectTwice => "a request that arrives twice is a new write",
            Self::SupersededCountsAsAck => {
                "a replica with a newer version counts as one that took it"
            }
            Self::SelfCountsTwice => "the coordinator's own replica counts twice",
            Self::TimeoutIsRefusal => "no answer in time is told as not applied",
            Self::RollbackOfUnknown => "a write that too few took is deleted again",
            Self::ReadFromOne => "a read by quorum is answered by one replica",
            Self::ReadRepairNotAwaited => "a read is answered before stale replicas are repaired",
            Self::ReadRepairDropsDeletions => "read repair does not send deletions",
            Self::ReadRepairSendsCurrent => "read repair sends content as a new write",
            Self::FirstAnswerWins => "a read takes what came first",
            Self::DeletedIsAbsent => "replicas do not tell of what they have deleted",
            Self::TieByArrival => "of equal stamps the one that comes last stays",
            Self::DeletionsAlwaysWin => "a deletion wins over newer writes of other nodes",
            Self::AckBeforeSync => "a replica acknowledges before its sync",
            Self::UnsyncedIsVisible => "reads see what is not synced",
            Self::StampsForgotten => "a restart forgets how far stamps were issued",
            Self::FutureStampsTaken => "a replica takes stamps of the future",
            Self::DeletionsForgottenByAge => "deletions are forgotten by age alone",
            Self::FloorNotChecked => "writes below the floor are taken",
            Self::FloorFromSome => "the floor rises though a replica did not take part",
            Self::WipedKeepsIdentity => "an empty disk keeps the identity of the node",
            Self::LeafOffByOne => "comparison leaves out the last leaf that differs",
            Self::RepairSkipsDeletions => "comparison does not send deletions",
            Self::RepairRestamped => "comparison sends content as a new write",
            Self::SearchForgetsDeletions => "a search does not ask others about what it found",
        }
    }
}
