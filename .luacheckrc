-- The scripts are checked as the server runs them: includes joined, and F, S, W, STATE, PLACE, KIND and LIMIT
-- replaced by what they stand for (python -m durasleep.protocol.script DIRECTORY).
std = {
  read_globals = {
    -- what Redis gives a script
    redis = { fields = { 'call', 'pcall', 'error_reply', 'status_reply', 'sha1hex' } },
    'cjson', 'KEYS', 'ARGV',
    -- what of Lua 5.1 its sandbox has
    'assert', 'error', 'ipairs', 'next', 'pairs', 'pcall', 'select', 'tonumber', 'tostring', 'type', 'unpack', 'xpcall',
    math = { fields = { 'abs', 'ceil', 'floor', 'fmod', 'huge', 'max', 'min' } },
    string = { fields = { 'byte', 'char', 'find', 'format', 'gmatch', 'gsub', 'len', 'lower', 'match', 'rep', 'sub', 'upper' } },
    table = { fields = { 'concat', 'insert', 'remove', 'sort' } },
  },
}
max_line_length = false -- StyLua wraps; a list of KEYS stays on one line
ignore = { '211' } -- an include defines more than one script uses, and KEYS are named alike everywhere
