-- The waiters of a promise: one line each in its field, an inbox as `i<inbox>`, an entry of another execution as
-- `p<incarnation> <id>~<number>`, the schedule that has started it as `s<name>`. If there are many, the field says only that, and the lines are members of a set.
local MANY = '+'
