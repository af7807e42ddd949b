//! Of two changes that both nodes ask each other for at the same time, one at most is granted. A node that answers yes
//! while its own question is unanswered lets the other one go first; if both do, both changes happen, each judged by a
//! state that the other one ended.

/// A question of a node.
#[derive(Clone, Copy, Debug, Default)]
struct Question {
    /// It is not answered yet.
    open: bool,
    /// The peer granted it while it had an open question of its own.
    granted_first: bool,
}

/// The questions of both nodes.
#[derive(Debug, Default)]
pub(crate) struct Agreement {
    questions: [Question; 2],
}

impl Agreement {
    /// A node asks its peer.
    pub(crate) fn asks(&mut self, node: usize) {
        self.questions[node] = Question { open: true, granted_first: false };
    }

    /// A node answers its peer.
    pub(crate) fn answers(&mut self, node: usize, granted: bool) -> Result<(), String> {
        let crossed = self.questions[node].open;
        let asked = &mut self.questions[1 - node];
        asked.granted_first = granted && crossed && asked.open;
        if self.questions.iter().all(|q| q.granted_first) {
            return Err(
                "both nodes asked for a change at the same time, and each granted the other's".to_owned()
            );
        }
        Ok(())
    }

    /// A node has its answer, or will not get it any more.
    pub(crate) fn is_over(&mut self, node: usize) {
        self.questions[node] = Question::default();
    }
}

#[cfg(test)]
mod tests {
    use super::Agreement;

    #[test]
    fn only_questions_that_cross_and_are_both_granted_are_against_the_rules() {
        let mut crossing = Agreement::default();
        crossing.asks(0);
        crossing.asks(1);
        assert!(crossing.answers(0, true).is_ok());
        assert!(crossing.answers(1, true).is_err());

        let mut refused = Agreement::default();
        refused.asks(0);
        refused.asks(1);
        assert!(refused.answers(0, false).is_ok());
        assert!(refused.answers(1, true).is_ok());

        let mut one_after_the_other = Agreement::default();
        one_after_the_other.asks(0);
        assert!(one_after_the_other.answers(1, true).is_ok());
        one_after_the_other.is_over(0);
        one_after_the_other.asks(1);
        assert!(one_after_the_other.answers(0, true).is_ok());
    }
}
