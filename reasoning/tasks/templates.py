"""Sentence templates of the word-problem generator.

``TEMPLATES[key]`` is a pair ``(train, test)`` of sentence templates for one relation. The two
sets are disjoint, and test templates use only words that some training template uses as well:
what is held out is the wording, not the vocabulary. ``[x|y]`` picks one alternative; ``{A}``,
``{B}`` are people, ``{O}`` things in the plural, ``{C}`` containers in the plural, ``{F}`` a
fraction in words, the other fields numbers.
"""

NAMES = (
    "Tom",
    "Anna",
    "Ben",
    "Maria",
    "Jack",
    "Lucy",
    "Sam",
    "Emma",
    "Leo",
    "Nina",
    "Paul",
    "Rosa",
    "Omar",
    "Kate",
    "Max",
    "Julia",
    "Ivan",
    "Sara",
    "Luis",
    "Alice",
    "Mark",
    "Grace",
    "Hugo",
    "Clara",
    "Noah",
    "Lily",
    "Adam",
    "Ella",
    "Carl",
    "Mia",
    "Eric",
    "Zoe",
    "John",
    "Amy",
    "Peter",
    "Lisa",
    "Dan",
    "Jane",
    "Tim",
    "Helen",
)
OBJECTS = (
    "apples",
    "oranges",
    "marbles",
    "stickers",
    "books",
    "pencils",
    "cookies",
    "cards",
    "flowers",
    "coins",
    "shells",
    "stamps",
    "eggs",
    "balloons",
    "candies",
    "muffins",
    "cupcakes",
    "toys",
    "pens",
    "bottles",
    "peaches",
    "lemons",
    "beads",
    "tickets",
    "pears",
    "buttons",
    "cakes",
    "roses",
    "notebooks",
    "tomatoes",
)
CONTAINERS = ("boxes", "bags", "baskets", "packs", "jars", "crates", "trays", "bowls")
COLORS = ("red", "blue", "green", "yellow", "white", "black", "purple", "orange")
FRACTIONS = {
    2: ("half", "one half"),
    3: ("a third", "one third"),
    4: ("a quarter", "one fourth"),
    5: ("a fifth", "one fifth"),
}
TIMES = {2: ("twice", "two times", "2 times"), 3: ("three times", "3 times")}

TEMPLATES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    # ---------------------------------------------------------------- things: openers
    "have0": (
        (
            "{A} has {n} {O}.",
            "{A} [starts|begins] with {n} {O}.",
            "There are {n} {O} in the [house|room|bag] of {A}.",
            "{A} [found|bought|picked] {n} {O} [today|yesterday|this morning].",
            "At [home|school|the store], {A} has {n} {O}.",
            "{A} owns {n} {O}.",
            "{A} got {n} {O} [from a friend|for a birthday|at the market].",
            "In the morning {A} [had|bought] {n} {O}.",
        ),
        (
            "This morning {A} [found|had] {n} {O} at home.",
            "{A} begins today with {n} {O} in a bag.",
            "At the market {A} got {n} {O}.",
        ),
    ),
    "packs0": (
        (
            "{A} has {k} {C} with {m} {O} in each.",
            "{A} buys {k} {C} of {O}. Each of the {C} has {m} {O}.",
            "There are {k} {C} in the [room|kitchen|store] of {A}, and each holds {m} {O}.",
            "{A} [filled|packed] {k} {C} with {m} {O} each.",
            "{A} got {k} {C} that each [contain|hold] {m} {O}.",
            "{A} finds {k} {C} at home. Every one of them has {m} {O} inside.",
            "In each of {k} {C}, {A} has {m} {O}.",
            "{A} bought {k} {C}, each holding {m} {O}.",
        ),
        (
            "{A} has {k} {C}. Each of them holds {m} {O}.",
            "There are {m} {O} in each of the {k} {C} that {A} [got|bought].",
            "{A} packed {m} {O} in each of {k} {C}.",
        ),
    ),
    "rate0": (
        (
            "{A} [makes|packs|sorts] {m} {O} an hour and works for {k} hours.",
            "Every hour {A} makes {m} {O}. {A} works {k} hours.",
            "{A} can [make|pack|sort] {m} {O} in an hour. {A} does this for {k} hours.",
            "{A} collects {m} {O} [every|each] day for {k} days.",
            "For {k} days, {A} [buys|gets|collects] {m} {O} each day.",
            "{A} [gets|makes] {m} {O} a day. {A} does this for {k} days.",
            "{A} saves {m} {O} [every|each] week for {k} weeks.",
            "In {k} weeks, {A} gets {m} {O} every week.",
        ),
        (
            "For {k} hours {A} makes {m} {O} every hour.",
            "Each day, {A} collects {m} {O}. {A} does this for {k} days.",
            "{A} gets {m} {O} a week for {k} weeks.",
        ),
    ),
    "two0": (
        (
            "{A} has {a} {X} {O} and {b} {Y} {O}.",
            "{A} [bought|found] {a} {X} {O} and {b} {Y} ones.",
            "There are {a} {X} {O} and {b} {Y} {O} in the bag of {A}.",
            "{A} has {a} {X} {O}. {A} also has {b} {Y} {O}.",
            "{A} got {a} {X} {O} in the morning and {b} {Y} {O} in the afternoon.",
            "{A} picked {a} {X} {O} first, then {b} {Y} {O}.",
        ),
        (
            "{A} found {a} {X} {O} in the morning and also {b} {Y} ones.",
            "In the bag of {A} there are {a} {X} {O} and {b} {Y} ones.",
            "First {A} bought {a} {X} {O}, then {b} {Y} {O}.",
        ),
    ),
    # ---------------------------------------------------------------- things: changes
    "gain": (
        (
            "{A} [buys|gets|finds] {k} more {O}.",
            "Then {A} [buys|gets|finds] {k} more.",
            "A friend gives {A} {k} [more|other] {O}.",
            "Later {A} [bought|found|picked] {k} {O} more.",
            "{A} receives {k} {O} from [a friend|an aunt|a teacher].",
            "After that, {A} [gets|buys] another {k} {O}.",
            "{A}'s mother gives {A} {k} more {O}.",
            "The next day {A} [adds|finds] {k} more {O}.",
            "Then {k} more {O} are given to {A}.",
        ),
        (
            "Later a friend gives {k} {O} to {A}.",
            "The next day, {A} receives another {k} {O}.",
            "After that {A} [bought|found] {k} more.",
        ),
    ),
    "lose": (
        (
            "{A} [gives away|loses|uses] {k} {O}.",
            "Then {A} [gives|hands] {k} {O} to a friend.",
            "{A} [sells|drops|throws away] {k} of the {O}.",
            "Later {A} [lost|used|sold] {k} of them.",
            "{k} of the {O} are [broken|old|bad], so {A} throws them away.",
            "After that, {A} gave {k} {O} to [a teacher|an aunt|a neighbor].",
            "A friend takes {k} of the {O} from {A}.",
            "{A} [gave away|dropped|lost] {k} {O} on the way home.",
            "The next day {A} [uses|gives away|sells] {k} {O}.",
        ),
        (
            "On the way home {A} loses {k} of the {O}.",
            "The next day {A} hands {k} of them to a neighbor.",
            "Then {A} gave away {k} {O}.",
        ),
    ),
    "gainpacks": (
        (
            "{A} [buys|gets|finds] {k} {C} with {m} more {O} in each.",
            "Then {A} buys {k} {C} of {O}, with {m} in each.",
            "A friend gives {A} {k} {C} that each [hold|contain] {m} {O}.",
            "Later {A} got {k} more {C} with {m} {O} each.",
            "After that, {A} bought {k} {C}. Each one has {m} {O}.",
            "The next day {A} adds {k} {C} of {m} {O} each.",
            "{A} receives {k} {C}, each with {m} {O} inside.",
        ),
        (
            "Later {A} receives {k} {C} of {m} {O} each.",
            "Then a friend gives {A} {k} {C} with {m} {O} in each.",
            "The next day {A} bought {k} {C} that each contain {m} more {O}.",
        ),
    ),
    "double": (
        (
            "Then the number of {O} that {A} has becomes {T} as large.",
            "{A} works hard and soon has {T} as many {O} as before.",
            "Later {A} has {T} that many {O}.",
            "After a week {A} has {T} as many {O}.",
            "{A} trades with friends until the {O} are {T} as many as before.",
            "The next month, {A} has {T} as many {O} as that.",
        ),
        (
            "Soon {A} has {T} that many.",
            "After a month {A} has {T} as many {O} as before.",
        ),
    ),
    "givefrac": (
        (
            "{A} gives {F} of the {O} to a friend.",
            "Then {A} [loses|sells|uses] {F} of the {O}.",
            "{A} [gave away|lost|sold] {F} of them.",
            "{F} of the {O} are [broken|bad], so {A} throws them away.",
            "Later {A} used {F} of the {O}.",
            "After that, {A} hands {F} of all the {O} to a neighbor.",
            "A friend takes {F} of the {O} from {A}.",
        ),
        (
            "Later {A} hands {F} of them to a friend.",
            "Then {A} throws away {F} of the {O}.",
            "{A} sold {F} of all the {O}.",
        ),
    ),
    "percentlose": (
        (
            "{A} [sells|uses|gives away] {p}% of the {O}.",
            "Then {A} lost {p}% of them.",
            "{p}% of the {O} are [broken|bad], so {A} throws them away.",
            "Later {A} gave {p}% of the {O} to a friend.",
            "A friend takes {p}% of the {O} from {A}.",
            "After that, {A} hands {p}% of all the {O} to a neighbor.",
        ),
        (
            "Later {A} sells {p}% of them.",
            "Then {A} gave away {p}% of all the {O}.",
        ),
    ),
    "share": (
        (
            "{A} shares the {O} equally [among|between] {k} friends, and one of them is {B}.",
            "{A} splits the {O} into {k} equal groups and gives one group to {B}.",
            "Then {A} divides all the {O} equally among {k} people. {B} is one of them.",
            "{B} and others, {k} children in all, share the {O} of {A} equally.",
            "{A} puts the {O} in {k} equal piles, and {B} takes one pile.",
            "Later {A} gives all the {O} to {k} children, the same number to each. "
            "{B} is one of these children.",
        ),
        (
            "{A} divides the {O} into {k} equal piles. {B} takes one of them.",
            "Then {A} splits all the {O} equally among {k} children, and {B} is one of them.",
        ),
    ),
    "sell": (
        (
            "{A} sells all the {O} for ${p} each.",
            "Then {A} sells each of the {O} for ${p}.",
            "{A} takes the {O} to the market and sells them all at ${p} each.",
            "At the market, all of these {O} are sold for {p} dollars each.",
            "A store pays {A} ${p} for each of the {O}.",
            "{A} gets ${p} for every one of the {O} and sells them all.",
            "Later {A} sold all of them for {p} dollars each.",
        ),
        (
            "At the market {A} sold each of the {O} for ${p}.",
            "{A} sells them all and gets {p} dollars for each.",
            "A store pays ${p} each for all the {O} of {A}.",
        ),
    ),
    "pack": (
        (
            "{A} puts the {O} into {C} of {k}.",
            "Then {A} packs all the {O} in {C}, {k} in each.",
            "{A} fills {C} with {k} {O} each until no {O} are left.",
            "All the {O} go into {C} that hold {k} {O} each.",
            "Later {A} sorts the {O} into {C}. Each one holds {k} {O}.",
            "{A} uses {C} that each hold {k} to pack the {O}.",
        ),
        (
            "Then {A} puts all the {O} in {C} that hold {k} each.",
            "{A} packs the {O} into {C} with {k} in each.",
        ),
    ),
    # ---------------------------------------------------------------- things: comparisons
    "times": (
        (
            "{B} has {T} as many {O} as {A}.",
            "{B} [bought|found|got] {T} as many {O} as {A} has.",
            "{A}'s friend {B} has {T} as many.",
            "The number of {O} {B} has is {T} the number {A} has.",
            "{B} owns {T} as many {O} as {A} does.",
            "Compared to {A}, {B} has {T} as many {O}.",
            "A friend called {B} has {T} the number of {O} of {A}.",
        ),
        (
            "{B} owns {T} the number of {O} that {A} has.",
            "{A} has a friend called {B} with {T} as many {O}.",
            "Compared to {A}, {B} [got|found] {T} as many.",
        ),
    ),
    "more": (
        (
            "{B} has {k} more {O} than {A}.",
            "{B} [bought|found|got] {k} more {O} than {A} has.",
            "{A}'s friend {B} has {k} more.",
            "{B} owns {k} {O} more than {A} does.",
            "Compared to {A}, {B} has {k} more {O}.",
            "If {B} gave away {k} {O}, {B} would have as many as {A}.",
            "{A} has {k} fewer {O} than {B}.",
        ),
        (
            "{B} owns {k} more {O} than {A} has.",
            "{A} has a friend called {B} with {k} more {O}.",
            "Compared to {A}, {B} got {k} more.",
        ),
    ),
    "fewer": (
        (
            "{B} has {k} [fewer|less] {O} than {A}.",
            "{B} [bought|found|got] {k} fewer {O} than {A} has.",
            "{A}'s friend {B} has {k} fewer.",
            "{B} owns {k} {O} fewer than {A} does.",
            "Compared to {A}, {B} has {k} fewer {O}.",
            "If {B} got {k} more {O}, {B} would have as many as {A}.",
            "{A} has {k} more {O} than {B}.",
        ),
        (
            "{B} owns {k} fewer {O} than {A} has.",
            "{A} has a friend called {B} with {k} fewer {O}.",
            "Compared to {A}, {B} got {k} [fewer|less].",
        ),
    ),
    "frac": (
        (
            "{B} has {F} as many {O} as {A}.",
            "{B} [bought|found|got] {F} as many {O} as {A} has.",
            "{A}'s friend {B} has {F} as many.",
            "The number of {O} {B} has is {F} of the number {A} has.",
            "{B} owns {F} as many {O} as {A} does.",
            "Compared to {A}, {B} has {F} as many {O}.",
            "A friend called {B} has {F} of the number of {O} of {A}.",
        ),
        (
            "{B} owns {F} of the number of {O} that {A} has.",
            "{A} has a friend called {B} with {F} as many {O}.",
            "Compared to {A}, {B} [got|found] {F} as many.",
        ),
    ),
    # ---------------------------------------------------------------- money
    "money0": (
        (
            "{A} has ${n}.",
            "{A} [starts|begins] with {n} dollars.",
            "There are {n} dollars in the [wallet|bag] of {A}.",
            "{A} saved ${n} [last year|this month|last week].",
            "{A} got ${n} for a birthday.",
            "A bank account of {A} holds ${n}.",
            "{A} takes ${n} to the [store|market].",
        ),
        (
            "This month {A} begins with ${n} in a wallet.",
            "{A} saved {n} dollars in a bank account.",
            "For a birthday {A} got {n} dollars.",
        ),
    ),
    "wage0": (
        (
            "{A} earns ${m} an hour and works {k} hours.",
            "{A} works {k} hours and is paid ${m} for each hour.",
            "For every hour of work, {A} gets {m} dollars. {A} works for {k} hours.",
            "{A} saves ${m} [every|each] week for {k} weeks.",
            "For {k} days, {A} earns ${m} a day.",
            "{A} is paid {m} dollars a day and works {k} days.",
            "{A} washes {k} cars and gets ${m} for each car.",
            "{A} walks {k} dogs and earns {m} dollars for each dog.",
        ),
        (
            "For each hour of work {A} is paid ${m}, and {A} works {k} hours.",
            "{A} gets {m} dollars for every car and washes {k} cars.",
            "Every week for {k} weeks, {A} saves ${m}.",
        ),
    ),
    "earn": (
        (
            "{A} earns ${k} more.",
            "Then {A} gets {k} dollars from [an aunt|a friend|a neighbor].",
            "{A}'s mother gives {A} ${k}.",
            "Later {A} finds ${k} on the street.",
            "After that, {A} is paid {k} dollars for a small job.",
            "{A} receives another ${k}.",
            "The next day {A} earns {k} dollars for [washing a car|cleaning a house].",
        ),
        (
            "The next day {A} finds another ${k}.",
            "Then {A} is paid ${k} for cleaning a house.",
            "Later an aunt gives {A} {k} dollars.",
        ),
    ),
    "spend": (
        (
            "{A} spends ${k} on [food|a book|a toy|clothes].",
            "Then {A} pays {k} dollars for [lunch|a ticket|shoes].",
            "{A} gives ${k} to [a friend|a neighbor].",
            "Later {A} buys [a hat|a game|a bag] for ${k}.",
            "After that, {A} lost {k} dollars.",
            "{A} has to pay ${k} for [food|the bus].",
            "[A hat|Lunch|A game] costs {k} dollars, and {A} buys it.",
        ),
        (
            "After that {A} pays ${k} for [clothes|a toy].",
            "Then {A} buys [a book|shoes] for {k} dollars.",
            "A ticket costs ${k}, and {A} buys it.",
        ),
    ),
    "buyitems": (
        (
            "{A} buys {k} {O} for ${p} each.",
            "Then {A} buys {k} {O}. Each of them costs ${p}.",
            "{A} pays for {k} {O} that cost {p} dollars each.",
            "Later {A} spends money on {k} {O} at ${p} each.",
            "After that, {A} takes {k} {O} at a price of ${p} each.",
            "At the store {O} cost ${p} each, and {A} buys {k} of them.",
        ),
        (
            "Then {A} pays ${p} each for {k} {O}.",
            "Later {A} buys {k} {O} that cost {p} dollars each.",
            "At the store {A} buys {k} {O} at a price of {p} dollars each.",
        ),
    ),
    "wage": (
        (
            "Then {A} works {k} hours for ${m} an hour.",
            "{A} earns ${m} a day for the next {k} days.",
            "Later {A} washes {k} cars and gets {m} dollars for each.",
            "After that, {A} saves ${m} every week for {k} weeks.",
            "{A} also walks {k} dogs and is paid ${m} for each dog.",
            "{A} sells {k} {O} for {m} dollars each.",
            "Then {A} adds {m} dollars to it each day for {k} days.",
        ),
        (
            "Later {A} works for {k} days and is paid ${m} a day.",
            "Then {A} also sells {k} {O} at ${m} each.",
            "{A} washes {k} cars for ${m} each.",
        ),
    ),
    "mtimes": (
        (
            "{B} has {T} as much money as {A}.",
            "{B} [saved|earned|got] {T} as much as {A} has.",
            "{A}'s friend {B} has {T} as much money.",
            "The money of {B} is {T} the money of {A}.",
            "Compared to {A}, {B} has {T} as much money.",
        ),
        (
            "{A} has a friend called {B} with {T} as much money.",
            "Compared to {A}, {B} saved {T} as much.",
        ),
    ),
    "mmore": (
        (
            "{B} has ${k} more than {A}.",
            "{B} [saved|earned|got] {k} dollars more than {A} has.",
            "{A}'s friend {B} has ${k} more.",
            "Compared to {A}, {B} has {k} more dollars.",
            "{A} has ${k} less than {B}.",
        ),
        (
            "{A} has a friend called {B} with ${k} more.",
            "Compared to {A}, {B} saved {k} dollars more.",
        ),
    ),
    "mfewer": (
        (
            "{B} has ${k} less than {A}.",
            "{B} [saved|earned|got] {k} dollars less than {A} has.",
            "{A}'s friend {B} has ${k} less.",
            "Compared to {A}, {B} has {k} fewer dollars.",
            "{A} has ${k} more than {B}.",
        ),
        (
            "{A} has a friend called {B} with ${k} less.",
            "Compared to {A}, {B} saved {k} dollars less.",
        ),
    ),
    "mfrac": (
        (
            "{B} has {F} as much money as {A}.",
            "{B} [saved|earned|got] {F} as much as {A} has.",
            "{A}'s friend {B} has {F} as much money.",
            "The money of {B} is {F} of the money of {A}.",
            "Compared to {A}, {B} has {F} as much money.",
        ),
        (
            "{A} has a friend called {B} with {F} as much money.",
            "Compared to {A}, {B} saved {F} as much.",
        ),
    ),
    "mspendfrac": (
        (
            "{A} spends {F} of the money on [food|clothes|a bag].",
            "Then {A} gives {F} of it to [a friend|a neighbor].",
            "{A} pays {F} of this money for [a game|shoes].",
            "Later {A} lost {F} of the money.",
            "After that, {A} uses {F} of it to buy [a hat|a toy].",
        ),
        (
            "Then {A} uses {F} of the money to buy [clothes|a game].",
            "Later {A} gives {F} of this money to a friend.",
        ),
    ),
    "mpercent": (
        (
            "{A} spends {p}% of the money on [food|clothes|a bag].",
            "Then {A} gives {p}% of it to [a friend|a neighbor].",
            "{A} pays {p}% of this money for [a game|shoes].",
            "Later {A} lost {p}% of the money.",
            "After that, {A} uses {p}% of it to buy [a hat|a toy].",
        ),
        (
            "Then {A} uses {p}% of the money to buy [clothes|a game].",
            "Later {A} gives {p}% of this money to a friend.",
        ),
    ),
    "msplit": (
        (
            "{A} splits the money equally [among|between] {k} people, and one of them is {B}.",
            "{A} shares all of it equally among {k} friends. {B} is one of them.",
            "Then {A} divides the money into {k} equal parts and gives one part to {B}.",
            "{B} and others, {k} children in all, share the money of {A} equally.",
        ),
        (
            "Then {A} splits all of it into {k} equal parts. {B} gets one part.",
            "{A} divides the money equally among {k} friends, and {B} is one of them.",
        ),
    ),
    "mbuyall": (
        (
            "{A} spends all the money on {O} that cost ${p} each.",
            "Then {A} uses all of it to buy {O} at {p} dollars each.",
            "{O} cost ${p} each, and {A} buys as many as the money allows.",
            "Later {A} spends all of it on {O} for ${p} each.",
            "{A} pays all the money for {O}. Each of them costs ${p}.",
        ),
        (
            "Later {A} uses all the money to buy {O} that cost {p} dollars each.",
            "Then {A} spends all of it on {O} at a price of ${p} each.",
        ),
    ),
    # ---------------------------------------------------------------- cost of a purchase
    "cost0": (
        (
            "{A} buys {k} {O} for ${p} each.",
            "{A} wants to buy {k} {O}. Each of them costs ${p}.",
            "At the store {O} cost ${p} each. {A} takes {k} of them.",
            "{A} orders {k} {O} at {p} dollars each.",
            "The price of {O} is {p} dollars each, and {A} orders {k}.",
            "In a store {A} picks {k} {O} that cost ${p} each.",
        ),
        (
            "{A} orders {k} {O}. Each of them costs {p} dollars.",
            "In a store, {O} cost {p} dollars each, and {A} picks {k} of them.",
            "{A} wants {k} {O} at a price of ${p} each.",
        ),
    ),
    "costmore": (
        (
            "{A} also buys {k} {O} for ${p} each.",
            "{A} adds {k} {O} to the order. Each of them costs ${p}.",
            "Then {A} takes {k} {O} at {p} dollars each as well.",
            "{A} picks {k} {O} too, and they cost ${p} each.",
            "The order has {k} {O} as well, with a price of ${p} each.",
        ),
        (
            "{A} adds {k} {O} that cost {p} dollars each.",
            "Then {A} also takes {k} {O} at a price of ${p} each.",
        ),
    ),
    "fee": (
        (
            "The store adds ${k} for [shipping|the delivery].",
            "{A} pays ${k} more for a [gift box|bag].",
            "There is also a fee of {k} dollars.",
            "The delivery costs another {k} dollars.",
            "{A} also gives the driver a tip of ${k}.",
        ),
        (
            "There is also ${k} for shipping.",
            "The store adds a fee of ${k}.",
        ),
    ),
    "coupon": (
        (
            "{A} has a coupon for ${k} off.",
            "The store takes ${k} off the price.",
            "{A} uses a gift card of {k} dollars to pay a part of it.",
            "A friend of {A} pays {k} dollars of the price.",
            "With a coupon, {A} saves ${k}.",
        ),
        (
            "{A} uses a coupon for {k} dollars off.",
            "A gift card pays ${k} of the price.",
        ),
    ),
    "discount": (
        (
            "The store gives {A} {p}% off.",
            "{A} has a coupon for {p}% off.",
            "Today the price is {p}% lower.",
            "With a gift card, {A} saves {p}% of the price.",
            "{A} gets a discount of {p}%.",
        ),
        (
            "Today {A} gets {p}% off.",
            "The store gives {A} a discount of {p}%.",
        ),
    ),
    "change": (
        (
            "{A} pays with ${n} and gets the change.",
            "{A} gives the store {n} dollars and takes the change.",
            "{A} came to the store with ${n} and pays for it all.",
            "Before this, {A} had {n} dollars in a wallet. Then {A} pays.",
        ),
        (
            "{A} gives the store ${n} and gets the change.",
            "{A} came with {n} dollars in a wallet and pays for it all.",
        ),
    ),
    "csplit": (
        (
            "{k} friends, one of them {B}, share the price equally.",
            "{B} and others, {k} people in all, split the price equally.",
            "The price is divided equally [among|between] {k} people, and {B} is one of them.",
        ),
        (
            "{k} people, one of them {B}, split the price equally.",
            "The price is divided equally by {k} friends, and one of them is {B}.",
        ),
    ),
    # ---------------------------------------------------------------- distance
    "dist0": (
        (
            "{A} [walks|runs|drives] {n} miles.",
            "{A} went {n} miles [today|yesterday|on Monday].",
            "On [Monday|the first day], {A} [rides|drives|travels] {n} miles.",
            "A trip of {A} is {n} miles long.",
        ),
        (
            "Today {A} [travels|rides] {n} miles.",
            "{A} went on a trip of {n} miles.",
        ),
    ),
    "speed0": (
        (
            "{A} drives {m} miles an hour for {k} hours.",
            "{A} rides for {k} hours at a speed of {m} miles an hour.",
            "Every hour {A} travels {m} miles. The trip takes {k} hours.",
            "{A} [runs|walks|rides] {m} miles every day for {k} days.",
            "For {k} days, {A} [walks|runs|drives] {m} miles a day.",
            "{A} makes {k} trips of {m} miles each.",
        ),
        (
            "For {k} hours, {A} drives at a speed of {m} miles an hour.",
            "{A} travels {m} miles a day. The trip takes {k} days.",
            "{A} rides {m} miles each day for {k} days.",
        ),
    ),
    "dadd": (
        (
            "Then {A} [walks|runs|drives|travels] {k} more miles.",
            "After lunch {A} goes another {k} miles.",
            "The next day {A} [walks|rides|travels] {k} more miles.",
            "Later {A} went {k} miles more.",
        ),
        (
            "Later {A} [rides|travels] another {k} miles.",
            "After lunch, {A} went {k} more miles.",
        ),
    ),
    "dspeed": (
        (
            "Then {A} drives for {k} more hours at {m} miles an hour.",
            "After lunch {A} travels {m} miles an hour for {k} hours.",
            "Later {A} makes {k} more trips of {m} miles each.",
            "For the next {k} days, {A} goes another {m} miles a day.",
        ),
        (
            "Later {A} travels for {k} more hours at {m} miles an hour.",
            "Then {A} makes {k} trips of {m} miles each.",
        ),
    ),
    "dtimes": (
        (
            "{B} [goes|travels|walks] {T} as far as {A}.",
            "{A}'s friend {B} goes {T} as far.",
            "The trip of {B} is {T} as long as the trip of {A}.",
            "Compared to {A}, {B} went {T} as far.",
        ),
        (
            "The trip of a friend called {B} is {T} as long.",
            "{B} went {T} as far as {A} does.",
        ),
    ),
    "dmore": (
        (
            "{B} [goes|travels|walks] {k} miles [more|farther] than {A}.",
            "{A}'s friend {B} goes {k} miles farther.",
            "The trip of {B} is {k} miles longer than the trip of {A}.",
            "Compared to {A}, {B} went {k} more miles.",
        ),
        (
            "The trip of a friend called {B} is {k} miles longer.",
            "{B} went {k} miles farther than {A} does.",
        ),
    ),
    "dfewer": (
        (
            "{B} [goes|travels|walks] {k} miles less than {A}.",
            "{A}'s friend {B} goes {k} miles less.",
            "The trip of {B} is {k} miles shorter than the trip of {A}.",
            "Compared to {A}, {B} went {k} fewer miles.",
        ),
        (
            "The trip of a friend called {B} is {k} miles shorter.",
            "{B} went {k} miles less than {A} does.",
        ),
    ),
    "dfrac": (
        (
            "{B} [goes|travels|walks] {F} as far as {A}.",
            "{A}'s friend {B} goes {F} as far.",
            "The trip of {B} is {F} as long as the trip of {A}.",
            "Compared to {A}, {B} went {F} as far.",
        ),
        (
            "The trip of a friend called {B} is {F} as long.",
            "{B} went {F} as far as {A} does.",
        ),
    ),
    # ---------------------------------------------------------------- age
    "age0": (
        (
            "{A} is {n} years old.",
            "Today {A} is {n}.",
            "The age of {A} is {n} years.",
            "{A} was born {n} years ago.",
            "This year {A} is {n} years old.",
        ),
        (
            "The age of {A} today is {n}.",
            "This year, {A} is {n}.",
        ),
    ),
    "atimes": (
        (
            "{B} is {T} as old as {A}.",
            "{A}'s friend {B} is {T} as old.",
            "The age of {B} is {T} the age of {A}.",
            "Compared to {A}, {B} is {T} as old.",
        ),
        (
            "{A} has a friend called {B}, and {B} is {T} as old.",
            "{B} has {T} the age of {A}.",
        ),
    ),
    "amore": (
        (
            "{B} is {k} years older than {A}.",
            "{A}'s friend {B} is {k} years older.",
            "{A} is {k} years younger than {B}.",
            "Compared to {A}, {B} is {k} years older.",
            "{B} was {k} when {A} was born.",
        ),
        (
            "{A} has a friend called {B}, and {B} is {k} years older.",
            "When {A} was born, {B} was {k} years old.",
        ),
    ),
    "afewer": (
        (
            "{B} is {k} years younger than {A}.",
            "{A}'s friend {B} is {k} years younger.",
            "{A} is {k} years older than {B}.",
            "Compared to {A}, {B} is {k} years younger.",
            "{A} was {k} when {B} was born.",
        ),
        (
            "{A} has a friend called {B}, and {B} is {k} years younger.",
            "When {B} was born, {A} was {k} years old.",
        ),
    ),
    "afrac": (
        (
            "{B} is {F} as old as {A}.",
            "{A}'s friend {B} is {F} as old.",
            "The age of {B} is {F} of the age of {A}.",
            "Compared to {A}, {B} is {F} as old.",
        ),
        (
            "{A} has a friend called {B}, and {B} is {F} as old.",
            "{B} has {F} of the age of {A}.",
        ),
    ),
    # ---------------------------------------------------------------- irrelevant sentences
    "distract": (
        (
            "{A} has {n} cousins.",
            "The store is {n} miles away.",
            "{A} lives at number {n}.",
            "It is {n} degrees outside.",
            "There are {n} people on the street.",
            "{A} read {n} pages this morning.",
        ),
        (
            "There are {n} people in the store.",
            "{A} lives {n} miles away.",
            "This morning {A} read {n} pages.",
        ),
    ),
    # ---------------------------------------------------------------- questions
    "q_have": (
        (
            "How many {O} does {A} have now?",
            "How many {O} are left for {A}?",
            "What is the number of {O} that {A} has in the end?",
            "How many {O} does {A} have?",
            "In the end, how many {O} does {A} have?",
            "Find the number of {O} {A} has now.",
        ),
        (
            "What is the number of {O} {A} has now?",
            "How many {O} does {A} have in the end?",
            "Find how many {O} {A} has.",
        ),
    ),
    "q_money": (
        (
            "How much money does {A} have now?",
            "How many dollars does {A} have?",
            "How much money is left for {A}?",
            "In the end, how much money does {A} have?",
            "How many dollars are there for {A} in the end?",
            "Find how much money {A} has now.",
        ),
        (
            "How many dollars does {A} have now?",
            "How much money does {A} have in the end?",
            "Find how many dollars {A} has.",
        ),
    ),
    "q_cost": (
        (
            "How much does {A} have to pay?",
            "How many dollars does {A} pay in all?",
            "What is the price that {A} pays in the end?",
            "Find how much {A} pays.",
            "In the end, how much does {A} pay?",
        ),
        (
            "How many dollars does {A} have to pay?",
            "How much does {A} pay in the end?",
        ),
    ),
    "q_dist": (
        (
            "How many miles does {A} go in all?",
            "How far does {A} travel?",
            "What is the number of miles that {A} travels?",
            "Find how many miles {A} goes.",
        ),
        (
            "How many miles does {A} travel?",
            "How far does {A} go in all?",
        ),
    ),
    "q_age": (
        (
            "How old is {A}?",
            "What is the age of {A}?",
            "How many years old is {A} now?",
            "Find the age of {A}.",
        ),
        ("Find how old {A} is.", "What is the age of {A} now?"),
    ),
    "q_future": (
        (
            "How old will {A} be in {k} years?",
            "What will be the age of {A} after {k} years?",
            "In {k} years, how old will {A} be?",
            "Find the age of {A} {k} years from now.",
        ),
        (
            "In {k} years, what will be the age of {A}?",
            "How old will {A} be {k} years from now?",
        ),
    ),
    "q_need": (
        (
            "{A} wants to have {n} {O}. How many more does {A} need?",
            "How many more {O} does {A} need to have {n}?",
            "If {A} needs {n} {O}, how many are missing?",
            "How many {O} must {A} still get to reach {n}?",
        ),
        (
            "{A} needs {n} {O}. How many more must {A} get?",
            "How many more {O} does {A} need to reach {n}?",
        ),
    ),
    "q_mneed": (
        (
            "{A} wants a bike for ${n}. How much more money does {A} need?",
            "How many more dollars does {A} need to buy a bike for {n} dollars?",
            "If {A} needs ${n}, how much is missing?",
            "How much must {A} still save to reach ${n}?",
        ),
        (
            "{A} needs {n} dollars to buy a bike. How much more money must {A} save?",
            "How many more dollars does {A} need to reach ${n}?",
        ),
    ),
    "q_total": (
        (
            "How many {O} do {P} have together?",
            "How many {O} do {P} have in all?",
            "What is the total number of {O} that {P} have?",
            "Altogether, how many {O} do {P} have?",
            "Find the number of {O} {P} have together.",
        ),
        (
            "What is the number of {O} that {P} have altogether?",
            "In all, how many {O} do {P} have?",
        ),
    ),
    "q_mtotal": (
        (
            "How much money do {P} have together?",
            "How many dollars do {P} have in all?",
            "What is the total amount of money that {P} have?",
            "Altogether, how much money do {P} have?",
        ),
        (
            "What is the amount of money {P} have altogether?",
            "In all, how much money do {P} have?",
        ),
    ),
    "q_dtotal": (
        (
            "How many miles do {P} go together?",
            "How many miles do {P} travel in all?",
            "What is the total number of miles that {P} travel?",
            "Altogether, how many miles do {P} go?",
        ),
        (
            "What is the number of miles {P} travel altogether?",
            "In all, how many miles do {P} go?",
        ),
    ),
    "q_atotal": (
        (
            "How old are {P} together?",
            "What is the total age of {P}?",
            "What is the sum of the ages of {P}?",
            "Find the sum of the ages of {P}.",
        ),
        ("Find the total age of {P}.", "What are the ages of {P} together?"),
    ),
    "q_diff": (
        (
            "How many more {O} does {A} have than {B}?",
            "How many fewer {O} does {B} have than {A}?",
            "What is the difference between the {O} of {A} and {B}?",
            "By how many {O} does {A} have more than {B}?",
        ),
        (
            "Compared to {B}, how many more {O} does {A} have?",
            "What is the difference between the number of {O} {A} and {B} have?",
        ),
    ),
    "q_mdiff": (
        (
            "How much more money does {A} have than {B}?",
            "How many fewer dollars does {B} have than {A}?",
            "What is the difference between the money of {A} and {B}?",
            "By how many dollars does {A} have more than {B}?",
        ),
        (
            "Compared to {B}, how much more money does {A} have?",
            "How many more dollars does {A} have than {B}?",
        ),
    ),
    "q_ddiff": (
        (
            "How many more miles does {A} go than {B}?",
            "How many fewer miles does {B} travel than {A}?",
            "What is the difference between the miles of {A} and {B}?",
            "How much farther does {A} go than {B}?",
        ),
        (
            "Compared to {B}, how many more miles does {A} go?",
            "How much farther does {A} travel than {B}?",
        ),
    ),
    "q_adiff": (
        (
            "How many years older is {A} than {B}?",
            "How much younger is {B} than {A}?",
            "What is the difference between the ages of {A} and {B}?",
        ),
        (
            "How much older is {A} than {B}?",
            "How many years younger is {B} than {A}?",
        ),
    ),
}
