package relay

// RankDials is rankDials, for its test.
var RankDials = rankDials
