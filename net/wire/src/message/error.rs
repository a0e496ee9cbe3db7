//! The reply that carries an error, and the errors of single objects inside other replies.

use heddle_types::{ApiError, ErrorCode, Retry};
use rkyv::{Archive, Deserialize, Serialize};

use super::check::{Checked, at_most};
use super::{Layout, MessageError};
use crate::limits::ERROR_TEXT_BYTES_MAX;

/// [`ApiError`] as it travels.
#[derive(Archive, Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
#[rkyv(derive(Debug))]
pub struct ErrorReply {
    /// `ErrorCode::number`.
    pub code: u16,
    /// 0 never, 1 safe, 2 may have been applied.
    pub retry: u8,
    /// What was wrong.
    pub message: String,
    /// What would have been right; may be empty.
    pub expected: String,
}

impl Layout for ErrorReply {
    fn check(archived: &ArchivedErrorReply) -> Checked {
        let code = archived.code.to_native();
        if ErrorCode::from_number(code).is_none() {
            return Err(MessageError::UnknownValue { field: "error code", found: u64::from(code) });
        }
        if retry_from_number(archived.retry).is_none() {
            let found = u64::from(archived.retry);
            return Err(MessageError::UnknownValue { field: "retry", found });
        }
        at_most("error message length", archived.message.len(), ERROR_TEXT_BYTES_MAX)?;
        at_most("error expectation length", archived.expected.len(), ERROR_TEXT_BYTES_MAX)
    }

    fn size_hint_bytes(&self) -> usize {
        64 + self.message.len() + self.expected.len()
    }
}

fn retry_from_number(number: u8) -> Option<Retry> {
    [Retry::Never, Retry::Safe, Retry::MayHaveApplied].get(usize::from(number)).copied()
}

fn shortened(text: &str) -> String {
    text[..text.floor_char_boundary(ERROR_TEXT_BYTES_MAX)].to_owned()
}

impl From<&ApiError> for ErrorReply {
    fn from(error: &ApiError) -> Self {
        let retry = match error.retry {
            Retry::Never => 0,
            Retry::Safe => 1,
            Retry::MayHaveApplied => 2,
        };
        let (message, expected) = (shortened(&error.message), shortened(&error.expected));
        Self { code: error.code.number(), retry, message, expected }
    }
}

impl From<ErrorReply> for ApiError {
    /// An unknown code, which a checked message never has, reads as `Internal`.
    fn from(reply: ErrorReply) -> Self {
        Self {
            code: ErrorCode::from_number(reply.code).unwrap_or(ErrorCode::Internal),
            message: reply.message,
            expected: reply.expected,
            retry: retry_from_number(reply.retry).unwrap_or(Retry::MayHaveApplied),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_error_comes_back_as_it_was() {
        for code in ErrorCode::ALL {
            for retry in [Retry::Never, Retry::Safe, Retry::MayHaveApplied] {
                let error =
                    ApiError { code, message: "m".to_owned(), expected: "e".to_owned(), retry };
                assert_eq!(ApiError::from(ErrorReply::from(&error)), error);
            }
        }
    }

    #[test]
    fn long_texts_are_cut_at_a_character() {
        let error = ApiError::new(ErrorCode::Internal, "é".repeat(ERROR_TEXT_BYTES_MAX), "");
        let cut = ErrorReply::from(&error);
        assert_eq!(cut.message.len(), ERROR_TEXT_BYTES_MAX);
        let error = ApiError::new(ErrorCode::Internal, "é€".repeat(ERROR_TEXT_BYTES_MAX), "");
        assert!(ErrorReply::from(&error).message.len() <= ERROR_TEXT_BYTES_MAX);
    }
}
