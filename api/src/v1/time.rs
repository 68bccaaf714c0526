//! Points in time, as RFC 3339 text.

use std::borrow::Cow;

use scp_model::Timestamp;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};
use time::{OffsetDateTime, UtcOffset, format_description::well_known::Rfc3339};
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{KnownFormat, ObjectBuilder, RefOr, Schema, SchemaFormat, schema::Type},
};

/// A point in time in milliseconds since 1970; RFC 3339 in UTC on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Time(pub Timestamp);

impl std::fmt::Display for Time {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Beyond the year 9999 there is no RFC 3339; the latest it knows stands for all of them.
        let Ok(at) = OffsetDateTime::from_unix_timestamp_nanos(i128::from(self.0.0) * 1_000_000) else {
            return f.write_str("9999-12-31T23:59:59.999Z");
        };
        let (date, (hour, minute, second, ms)) = (at.date(), at.time().as_hms_milli());
        let (year, month, day) = (date.year(), u8::from(date.month()), date.day());
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{ms:03}Z")
    }
}

impl std::str::FromStr for Time {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let at = OffsetDateTime::parse(text, &Rfc3339).map_err(|error| error.to_string())?;
        let ms = at.to_offset(UtcOffset::UTC).unix_timestamp_nanos() / 1_000_000;
        u64::try_from(ms).map(|ms| Self(Timestamp(ms))).map_err(|_| "is before 1970".to_owned())
    }
}

impl From<Timestamp> for Time {
    fn from(at: Timestamp) -> Self {
        Self(at)
    }
}

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Cow::<'_, str>::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

impl PartialSchema for Time {
    fn schema() -> RefOr<Schema> {
        ObjectBuilder::new()
            .schema_type(Type::String)
            .format(Some(SchemaFormat::KnownFormat(KnownFormat::DateTime)))
            .into()
    }
}

impl ToSchema for Time {
    fn name() -> Cow<'static, str> {
        "Time".into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_survives_the_wire_to_the_millisecond() {
        for ms in [0, 1, 999, 1_795_489_524_123] {
            let time = Time(Timestamp(ms));
            let text = serde_json::to_string(&time).expect("a time is plain text");
            assert_eq!(serde_json::from_str::<Time>(&text).expect("reads what was written"), time, "{text}");
        }
        assert_eq!(Time(Timestamp(0)).to_string(), "1970-01-01T00:00:00.000Z");
        assert_eq!(Time(Timestamp(u64::MAX)).to_string(), "9999-12-31T23:59:59.999Z");
        assert_eq!("1970-01-01T01:00:00+01:00".parse(), Ok(Time(Timestamp(0))));
        assert!("1969-12-31T23:59:59Z".parse::<Time>().is_err());
    }
}
